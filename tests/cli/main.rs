//! The command line, end to end: every verb is run as a person would run it, in a directory and an environment of its
//! own, and judged by its stdout, stderr and exit code.
#![expect(clippy::unwrap_used, reason = "what a test helper cannot do ends the test")]

mod bundle;
mod cat;
mod checkout;
mod commit;
mod common;
mod completions;
mod config;
mod credentials;
mod diff;
mod extlinux;
mod fsck;
mod globals;
mod history;
mod init;
mod install;
mod key;
mod key_docs;
mod key_set;
mod key_tools;
mod log;
mod ls;
mod machine;
mod mirror;
mod mount;
mod output_file;
mod progress;
mod prune;
mod publish;
mod pull;
mod pull_remote;
mod reference;
mod refs;
mod remote;
mod rev_parse;
mod seal;
mod serve;
mod show;
mod site;
mod sources;
mod stats;
