//! Pulling from a site: look, judge, plan, fetch, and move the refs.
//!
//! A record and its release are judged first (`trust`); a manifest then says where everything lies, and what is missing
//! here becomes an exact plan (`plan`). Only then is the first byte of a blob asked for. Every blob is verified before it
//! has a name in the transaction; what an interrupted pull staged is verified again and not asked for again. The visible
//! step is that of the transaction: all refs move, or none.

mod bundle;
#[cfg(test)]
mod copies_tests;
mod error;
mod fetch;
#[cfg(all(test, feature = "http"))]
#[allow(clippy::unwrap_used)]
mod hostile_tests;
#[cfg(feature = "testing")]
pub(crate) mod laws;
#[cfg(test)]
mod lost_tests;
mod mirror;
mod need;
mod objects;
mod plan;
mod receive;
mod report;
mod run;
mod session;
#[cfg(test)]
mod site_tests;
mod target;
#[cfg(test)]
mod tests;
mod trust;
#[cfg(test)]
mod trust_tests;

pub use bundle::{BundleReport, create_bundle};
pub use error::PullError;
pub use mirror::{MirrorOptions, MirrorReport};
pub use objects::SiteObjects;
pub use report::{PullReport, PulledRef};
pub use session::{PullOptions, Session, SessionOptions, Wanted, pull};
pub use trust::Selector;
