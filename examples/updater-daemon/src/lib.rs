//! An updater that embeds `libatomos`, and nothing else but the standard library.
//!
//! It shows what a program has to do that keeps machines up to date:
//!
//! 1. [`Updater::check`] asks whether what the machine follows has something newer;
//! 2. [`Updater::start`] does the rest in a thread: it downloads, plans, lets the program [inspect](Inspect) the plan,
//!    and deploys exactly what was planned;
//! 3. any thread may [cancel](Job::cancel) that; starting again takes up what was downloaded;
//! 4. after the reboot [`Updater::mark_good`] keeps the version as one to fall back to, or [`Updater::give_up`] goes
//!    back and remembers never to take that commit again.
//!
//! It has no network of its own. A machine that follows a remote asks a [`broker`], by a transport that the library has never heard
//! of; whom to believe is said in the remote's configuration, as for http.
//!
//! Start reading at [`Updater`]. [`Board`] is the program's own `Progress`. [`machine`] stands in for a machine, so that
//! all this can be run and tested in a temporary directory, by any user.

mod board;
pub mod broker;
mod error;
mod job;
pub mod machine;
mod memory;
mod updater;

pub use board::{Board, Snapshot};
pub use error::Error;
pub use job::Job;
pub use updater::{Applied, Finding, Inspect, Transports, Update, Updater, Verdict};
