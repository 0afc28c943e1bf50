//! What happens to machines in the tests.

mod broken;
mod composefs;
mod dracut;
mod http;
mod sealed;
mod smoke;
mod trouble;

pub use composefs::composefs;
pub use dracut::dracut;
pub use http::{http_and_all_that_fails, http_and_emergency, http_and_panic};
pub use sealed::sealed;
pub use smoke::smoke;
pub use trouble::trouble;
