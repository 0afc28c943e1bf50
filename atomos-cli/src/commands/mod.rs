//! The verbs, one file each.
//!
//! A file holds the verb's arguments, whose doc comments are the help text, and `run`, which fills the library's options,
//! calls once, and renders the result.

mod checkout;
mod commit;
mod fsck;
mod init;
mod ls;
mod refs;
mod rev_parse;

use clap::Subcommand;

use crate::context::Context;
use crate::exit_code::Outcome;
use crate::report::CliError;

/// What a verb ends with.
pub type RunResult = Result<Outcome, CliError>;

/// Every verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::InitArgs),
    Commit(Box<commit::CommitArgs>),
    Checkout(checkout::CheckoutArgs),
    Ls(ls::LsArgs),
    Refs(refs::RefsArgs),
    RevParse(rev_parse::RevParseArgs),
    Fsck(fsck::FsckArgs),
}

impl Command {
    /// Runs the verb.
    pub fn run(self, context: &Context) -> RunResult {
        match self {
            Self::Init(args) => init::run(context, &args),
            Self::Commit(args) => commit::run(context, *args),
            Self::Checkout(args) => checkout::run(context, &args),
            Self::Ls(args) => ls::run(context, &args),
            Self::Refs(args) => refs::run(context, &args),
            Self::RevParse(args) => rev_parse::run(context, &args),
            Self::Fsck(args) => fsck::run(context, &args),
        }
    }
}
