//! The verbs, one file each.
//!
//! A file holds the verb's arguments, whose doc comments are the help text, and `run`, which fills the library's options,
//! calls once, and renders the result.

mod boot;
mod boot_trial;
mod bundle;
mod cat;
mod checkout;
mod cleanup;
mod commit;
mod commit_source;
mod completions;
mod config;
mod deploy;
mod diff;
mod etc;
mod export;
mod finalize;
mod fsck;
mod help;
mod history;
mod import;
mod init;
mod install;
mod kargs;
pub mod key;
mod key_set;
mod lint;
mod log;
mod ls;
mod mirror;
mod mount;
mod pin;
mod prune;
mod publish;
mod pull;
mod refs;
mod remote;
mod reset;
mod rev_parse;
mod rollback;
mod serve;
mod show;
mod site;
mod stateroot;
mod stats;
mod status;
mod switch;
mod sysroot;
mod umount;
mod undeploy;
mod upgrade;
mod usr_overlay;

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
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Lint(lint::LintArgs),
    Ls(ls::LsArgs),
    Cat(cat::CatArgs),
    Show(show::ShowArgs),
    Log(log::LogArgs),
    Diff(diff::DiffArgs),
    Refs(refs::RefsArgs),
    Reset(reset::ResetArgs),
    RevParse(rev_parse::RevParseArgs),
    Key(key::KeyArgs),
    Publish(Box<publish::PublishArgs>),
    Remote(remote::RemoteArgs),
    Pull(pull::PullArgs),
    History(history::HistoryArgs),
    Bundle(bundle::BundleArgs),
    Mirror(mirror::MirrorArgs),
    Site(site::SiteArgs),
    Serve(serve::ServeArgs),
    Fsck(fsck::FsckArgs),
    Prune(prune::PruneArgs),
    Stats(stats::StatsArgs),
    Config(config::ConfigArgs),
    Install(Box<install::InstallArgs>),
    Sysroot(sysroot::SysrootArgs),
    Stateroot(stateroot::StaterootArgs),
    Deploy(deploy::DeployArgs),
    Status(status::StatusArgs),
    Upgrade(upgrade::UpgradeArgs),
    Switch(switch::SwitchArgs),
    Finalize(finalize::FinalizeArgs),
    Rollback(rollback::RollbackArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Undeploy(undeploy::UndeployArgs),
    Cleanup(cleanup::CleanupArgs),
    Kargs(kargs::KargsArgs),
    UsrOverlay(usr_overlay::UsrOverlayArgs),
    Etc(etc::EtcArgs),
    Boot(boot::BootArgs),
    Help(help::HelpArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(completions::ManArgs),
    /// Print the reference of the command line as Markdown
    #[command(hide = true)]
    Reference,
}

impl Command {
    /// Runs the verb.
    pub fn run(self, context: &Context) -> RunResult {
        match self {
            Self::Init(args) => init::run(context, &args),
            Self::Commit(args) => commit::run(context, *args),
            Self::Checkout(args) => checkout::run(context, &args),
            Self::Mount(args) => mount::run(context, &args),
            Self::Umount(args) => umount::run(context, &args),
            Self::Export(args) => export::run(context, &args),
            Self::Import(args) => import::run(context, &args),
            Self::Lint(args) => lint::run(context, &args),
            Self::Ls(args) => ls::run(context, &args),
            Self::Cat(args) => cat::run(context, &args),
            Self::Show(args) => show::run(context, &args),
            Self::Log(args) => log::run(context, &args),
            Self::Diff(args) => diff::run(context, &args),
            Self::Refs(args) => refs::run(context, &args),
            Self::Reset(args) => reset::run(context, &args),
            Self::RevParse(args) => rev_parse::run(context, &args),
            Self::Key(args) => key::run(context, &args),
            Self::Publish(args) => publish::run(context, &args),
            Self::Remote(args) => remote::run(context, &args),
            Self::Pull(args) => pull::run(context, &args),
            Self::History(args) => history::run(context, &args),
            Self::Bundle(args) => bundle::run(context, &args),
            Self::Mirror(args) => mirror::run(context, &args),
            Self::Site(args) => site::run(context, &args),
            Self::Serve(args) => serve::run(context, &args),
            Self::Fsck(args) => fsck::run(context, &args),
            Self::Prune(args) => prune::run(context, &args),
            Self::Stats(args) => stats::run(context, &args),
            Self::Config(args) => config::run(context, &args),
            Self::Install(args) => install::run(context, &args),
            Self::Sysroot(args) => sysroot::run(context, &args),
            Self::Stateroot(args) => stateroot::run(context, &args),
            Self::Deploy(args) => deploy::run(context, &args),
            Self::Status(args) => status::run(context, &args),
            Self::Upgrade(args) => upgrade::run(context, &args),
            Self::Switch(args) => switch::run(context, &args),
            Self::Finalize(args) => finalize::run(context, &args),
            Self::Rollback(args) => rollback::run(context, &args),
            Self::Pin(args) => pin::run_pin(context, &args),
            Self::Unpin(args) => pin::run_unpin(context, &args),
            Self::Undeploy(args) => undeploy::run(context, &args),
            Self::Cleanup(args) => cleanup::run(context, &args),
            Self::Kargs(args) => kargs::run(context, &args),
            Self::UsrOverlay(args) => usr_overlay::run(context, &args),
            Self::Etc(args) => etc::run(context, &args),
            Self::Boot(args) => boot::run(context, &args),
            Self::Completions(args) => completions::run(context, &args),
            Self::Man(args) => completions::run_man(context, &args),
            Self::Reference => completions::run_reference(context),
            Self::Help(args) => help::run(&args),
        }
    }
}
