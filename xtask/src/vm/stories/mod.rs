//! What happens to machines in the tests.

mod dracut;
mod http;
mod smoke;
mod trouble;

pub use dracut::dracut;
pub use http::http;
pub use smoke::smoke;
pub use trouble::trouble;
