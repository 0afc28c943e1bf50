//! `atomos install`

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use libatomos::names::{RefName, StaterootName};
use libatomos::remote::{RemoteConfig, RemoteName};
use libatomos::sysroot::install::{InstallOptions, InstallPlan, InstallReport, InstallSource, Loader};

use super::RunResult;
use super::key::read_public;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json, text};
use crate::report::CliError;

/// Make a prepared file system bootable: deploy to it, and install a boot loader
///
/// DIR is where the root file system of the new disk is mounted, with /boot and the EFI system partition mounted within it where they are
/// file systems of their own. Makes the sysroot and a stateroot, brings the commit, deploys it, adds a line for /boot to the
/// deployment's /etc/fstab, and installs the loader. What the firmware starts is written last: until then, the disk boots what it
/// booted before. An interrupted run can be repeated, and goes on.
///
/// REF is taken from the repository that --repo names, from the site that --site names, which the machine then follows, or else from
/// the repository that DIR has already. A ref of a remote (origin:REF) takes the remote's configuration along.
///
/// systemd-boot is copied from the tree to the EFI system partition, to the name that every firmware starts. It reads /boot if that is
/// FAT, as the EFI system partition is. For GRUB, `grub-install` of this machine is run: with --grub-device for a BIOS, and for UEFI
/// where there is an EFI system partition. With neither of them the command is refused, for the disk would not boot. No configuration is
/// generated, and no variable of this machine's firmware is touched.
///
/// `root=UUID=` is found for ext4, XFS and btrfs; for others, give root= with --karg. `panic=10` is added, so that a kernel that
/// panics counts as a boot that failed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos install --to-filesystem /mnt --repo ./repo debian/13     with the EFI system partition in /mnt
  atomos install --to-filesystem /mnt --site https://os.example.org --key release-key.pub debian/13
  atomos install --to-filesystem /mnt --repo ./repo debian/13 --bootloader grub --grub-device /dev/vda
  atomos install --to-filesystem /mnt --repo ./repo debian/13 --karg console=ttyS0 --dry-run")]
pub struct InstallArgs {
    /// What to deploy, and to follow afterwards
    #[arg(value_name = "REF")]
    reference: RefName,

    /// Where the root file system is mounted
    #[arg(long, value_name = "DIR")]
    to_filesystem: PathBuf,

    /// Pull from this site, and follow it: http, https or file, or an absolute path
    #[arg(long, value_name = "URL")]
    site: Option<String>,

    /// A public key of the site, of which any signs
    #[arg(long, value_name = "FILE", requires = "site")]
    key: Vec<PathBuf>,

    /// Believe whatever comes from the site
    #[arg(long, requires = "site", conflicts_with = "key")]
    no_verify: bool,

    /// What the site is called on the new machine
    #[arg(long, value_name = "NAME", requires = "site", default_value = "origin")]
    remote: RemoteName,

    /// The stateroot to make
    #[arg(long, value_name = "NAME", default_value = "os")]
    stateroot: StaterootName,

    /// Add a kernel argument
    #[arg(long = "karg", value_name = "ARG")]
    kargs: Vec<String>,

    /// The boot loader: auto, systemd-boot, grub or none [default: grub with --grub-device, systemd-boot where /boot is FAT, else grub]
    #[arg(
        long,
        value_name = "LOADER",
        default_value = "auto",
        hide_default_value = true
    )]
    bootloader: Loader,

    /// Where the EFI system partition is mounted [default: efi, boot/efi or boot in DIR, whichever is FAT]
    #[arg(long, value_name = "DIR")]
    esp: Option<PathBuf>,

    /// The disk whose first sectors get GRUB, for a BIOS
    #[arg(long, value_name = "DEVICE")]
    grub_device: Option<PathBuf>,

    /// Only write GRUB's configuration: GRUB itself is there already, or is put there by other means
    #[arg(long, conflicts_with = "grub_device")]
    grub_config_only: bool,

    /// Take a file system that has a system already, and replace another loader's files
    #[arg(long)]
    existing: bool,

    /// Take a DIR that is no mount point
    #[arg(long)]
    allow_directory: bool,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl InstallArgs {
    fn options(&self, context: &Context, target: &Path) -> InstallOptions {
        let mut options = InstallOptions::default();
        options.stateroot = self.stateroot.clone();
        options.kargs.clone_from(&self.kargs);
        options.loader = self.bootloader;
        // As it is seen from here, or below DIR.
        options.esp = self.esp.as_ref().map(|esp| {
            let absolute = std::path::absolute(esp).unwrap_or_else(|_| esp.clone());
            absolute.strip_prefix(target).unwrap_or(esp).to_owned()
        });
        options.grub_device.clone_from(&self.grub_device);
        options.grub_config_only = self.grub_config_only;
        options.existing = self.existing;
        options.allow_directory = self.allow_directory;
        options.sysroot = context.sysroot_options();
        options
    }

    fn site_config(&self, url: &str) -> Result<RemoteConfig, CliError> {
        if self.key.is_empty() && !self.no_verify {
            return Err(CliError::usage(
                "a --site needs a --key FILE, or --no-verify to believe whatever comes",
            ));
        }
        let mut config = RemoteConfig::default();
        config.urls = vec![url.to_owned()];
        config.no_verify = self.no_verify;
        for file in &self.key {
            config.keys.push(read_public(file)?.to_pem());
        }
        config
            .check()
            .map_err(|reason| CliError::usage(format!("cannot use this as a remote: {reason}")))?;
        Ok(config)
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: &InstallArgs) -> RunResult {
    let target = std::path::absolute(&args.to_filesystem).map_err(|error| {
        let shown = text::escape_path(&args.to_filesystem);
        CliError::io(format!("cannot find {shown}"), error)
    })?;
    let reference = args.reference.clone();
    let repo;
    let source = match (&args.site, context.named_repo()) {
        (Some(url), _) => InstallSource::Site {
            remote: args.remote.clone(),
            config: Box::new(args.site_config(url)?),
            reference,
            session: context.session_options(),
        },
        (None, Some(path)) => {
            repo = context.open_repo_at(path)?;
            InstallSource::Repo {
                repo: &repo,
                reference,
            }
        }
        (None, None) => InstallSource::Target { reference },
    };
    let plan = InstallPlan::make(&target, &source, &args.options(context, &target))?;
    let ui = context.ui();
    for warning in &plan.warnings {
        ui.warning(text::escape_text(warning));
    }
    if args.dry_run {
        ui.result(|out| match context.json() {
            true => json::write(out, &plan),
            false => write_plan(out, &plan),
        })?;
        return Ok(Outcome::Done);
    }
    let start = |words: &[String]| start_program(context, words);
    let report = plan.carry_out(&source, &start, context.progress(), context.cancel())?;
    ui.result(|out| match context.json() {
        true => json::write(out, &report),
        false => writeln!(out, "{}", report.deployment),
    })?;
    narrate(context, &report);
    Ok(Outcome::Done)
}

/// Runs a loader's installer. What it says is narration.
fn start_program(context: &Context, words: &[String]) -> io::Result<()> {
    let (program, arguments) = words.split_first().expect("a program has a name");
    context
        .ui()
        .status(format_args!("Running {}", text::escape_text(&words.join(" "))));
    let start = |program: &str| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .status()
    };
    let status = match start(program) {
        // As Fedora and others call it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && program == "grub-install" => {
            start("grub2-install").map_err(|_| error)
        }
        other => other,
    }?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(status.to_string()))
}

/// Returns what of a loader is installed.
const fn loader_name(plan: &InstallPlan) -> &'static str {
    match plan.loader {
        Loader::SystemdBoot => "systemd-boot",
        Loader::Grub if plan.programs.is_empty() => "grub's configuration alone",
        Loader::Grub => "grub",
        Loader::Auto | Loader::None => "no boot loader",
    }
}

fn write_plan(out: &mut dyn Write, plan: &InstallPlan) -> io::Result<()> {
    writeln!(out, "would install  {}", plan.reference)?;
    writeln!(out, "to             {}", text::escape_path(&plan.target))?;
    writeln!(out, "stateroot      {}", plan.stateroot)?;
    writeln!(out, "boot loader    {}", loader_name(plan))?;
    if let Some(esp) = &plan.esp {
        writeln!(out, "ESP            /{}", text::escape_path(esp))?;
    }
    writeln!(out, "kargs          {}", text::escape_text(&plan.kargs.join(" ")))?;
    for line in &plan.fstab {
        writeln!(out, "fstab          {}", text::escape_text(line))?;
    }
    for program in &plan.programs {
        writeln!(out, "would run      {}", text::escape_text(&program.join(" ")))?;
    }
    if plan.resumes {
        writeln!(out, "an interrupted installation is gone on with")?;
    }
    Ok(())
}

fn narrate(context: &Context, report: &InstallReport) {
    let ui = context.ui();
    let version = report
        .deploy
        .as_ref()
        .map_or("", |deploy| deploy.version.as_str());
    ui.status(format_args!(
        "Installed {} ({}) to {}, with {}",
        text::escape_text(deployment::version_or(version, report.plan.reference.as_str())),
        report.deployment.short(),
        text::escape_path(&report.plan.target),
        loader_name(&report.plan),
    ));
    for file in &report.loader_files {
        ui.detail(format_args!("Wrote /{}", text::escape_path(file)));
    }
}
