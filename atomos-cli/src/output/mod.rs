//! Renderers: pure functions from what the library returned to text or JSON.

pub mod change;
pub mod commit;
pub mod deployment;
pub mod etc;
pub mod findings;
pub mod json;
pub mod key_set;
pub mod lint;
pub mod list;
pub mod os_tree;
pub mod reference;
pub mod stats;
pub mod table;
pub mod text;
pub mod trial;
