//! Deployments, as people read them.

use std::io::{self, Write};

use libatomos::sysroot::{Assessment, DeployPreview, DeployReport, DeploymentStatus, Role, RootKind, Status};

use super::etc::shown_path;
use super::{json, text, trial};
use crate::context::Context;
use crate::report::CliError;

/// Returns the version, or what to say where there is none.
pub fn version_or<'a>(version: &'a str, otherwise: &'a str) -> &'a str {
    if version.is_empty() { otherwise } else { version }
}

/// Prints the deployment's name, or the report as JSON, and narrates what was done.
pub fn announce(context: &Context, report: &DeployReport) -> Result<(), CliError> {
    context.ui().result(|out| match context.json() {
        true => json::write(out, report),
        false => writeln!(out, "{}", report.deployment),
    })?;
    narrate(context, report);
    Ok(())
}

/// Says what a deploy did.
pub fn narrate(context: &Context, report: &DeployReport) {
    let ui = context.ui();
    let how = report.checkout.as_ref().map_or_else(String::new, |files| {
        let linked = text::count(files.hardlinked, "file", "files");
        format!(
            ": {}{linked} linked, {} copied",
            report.image.as_ref().map_or_else(String::new, |image| {
                format!("an image of {}, ", text::size(image.bytes))
            }),
            text::grouped(files.copied + files.reflinked)
        )
    });
    ui.status(format_args!(
        "{} {} ({}){how}",
        if report.staged { "Staged" } else { "Deployed" },
        text::escape_text(version_or(&report.version, "a version without a name")),
        report.deployment.short(),
    ));
    if let Some(read) = &report.read_back {
        ui.detail(format_args!(
            "Read {} of {} back from the disk",
            text::count(read.files, "new file", "new files"),
            text::size(read.bytes)
        ));
    }
    if let (Some(etc), Some(from)) = (&report.etc, &report.merge_from) {
        let counts = &etc.counts;
        ui.status(format_args!(
            "{} /etc of {}: {} kept as changed here, {} merged from both sides, {} in conflict",
            if report.staged {
                "Tried the merge of"
            } else {
                "Merged"
            },
            from.short(),
            text::grouped(counts.mine),
            text::grouped(counts.merged + counts.mixed),
            text::grouped(counts.conflicts),
        ));
        if counts.conflicts > 0 && report.staged {
            ui.status("What is here will be kept. `atomos etc conflicts` shows them once it is finished.");
        } else if counts.conflicts > 0 {
            ui.status(
                "What is here was kept. `atomos etc conflicts` shows them, `atomos etc resolve` ends them.",
            );
        }
    }
    for skipped in report.etc.iter().flat_map(|etc| &etc.skipped) {
        ui.warning(format_args!(
            "/etc/{} is not taken over: {}",
            shown_path(&skipped.path),
            skipped.reason
        ));
    }
    for account in report.etc.iter().flat_map(|etc| &etc.renumbered) {
        ui.warning(format_args!(
            "{} in /etc/{} has the id {} in the new version, and {} here: what it owns in /var has to be given to it",
            text::escape_text(&account.name),
            account.file.name(),
            account.after,
            account.before
        ));
    }
    if let Some(etc) = report.etc.as_ref().filter(|_| !report.staged) {
        for file in &etc.regenerate {
            ui.warning(format_args!(
                "/etc/{} is the new version's, without what was changed here; after the next boot run: {}",
                shown_path(&file.path),
                text::escape_text(&file.command.join(" "))
            ));
        }
        for path in &etc.unsettled {
            let path = shown_path(path);
            ui.warning(format_args!(
                "/etc/{path} was being written all the time; the last state seen was taken"
            ));
        }
    }
    if let Some(id) = &report.discarded {
        ui.status(format_args!("Gave up {}, which was staged", id.short()));
    }
    for id in &report.removed {
        ui.status(format_args!("Removed {}", id.short()));
    }
    ui.status(match report.staged {
        true => "Shutdown finishes it, with /etc as it is then; the next boot takes it.",
        false => "It takes effect at the next boot.",
    });
}

/// Writes what a deploy would do.
pub fn write_preview(out: &mut dyn Write, preview: &DeployPreview) -> io::Result<()> {
    writeln!(out, "would deploy  {}", preview.deployment)?;
    writeln!(
        out,
        "version       {}",
        text::escape_text(version_or(&preview.version, "-"))
    )?;
    writeln!(out, "kargs         {}", text::escape_text(&preview.kargs))?;
    match preview.root {
        RootKind::FilesAndImage => writeln!(out, "root          files, and an image of them")?,
        RootKind::Image => writeln!(out, "root          an image")?,
        RootKind::VerifiedImage => writeln!(out, "root          an image, verified")?,
        _ => {}
    }
    if let (Some(plan), Some(from)) = (&preview.etc, &preview.merge_from) {
        writeln!(out, "etc           merged from {}", from.short())?;
        for entry in plan.entries() {
            let conflict = if entry.conflict.is_some() {
                "  conflict"
            } else {
                ""
            };
            let verdict = format!("{:?}", entry.verdict).to_lowercase();
            let path = shown_path(&entry.path);
            writeln!(out, "  {verdict:<9} /etc/{path}{conflict}")?;
        }
    }
    if preview.staged {
        writeln!(out, "finished      at shutdown; --now finishes it at once")?;
    }
    if let Some(id) = &preview.discarded {
        writeln!(out, "would give up {id}, which is staged")?;
    }
    for id in &preview.removed {
        writeln!(out, "would remove  {id}")?;
    }
    Ok(())
}

/// Writes the deployments, the default first.
pub fn write_status(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    if status.deployments.is_empty() {
        return writeln!(out, "no deployments");
    }
    if status.usr_overlay {
        writeln!(
            out,
            "/usr is writable until the next boot (`atomos diff --booted` shows what was changed)\n"
        )?;
    }
    if let Some(error) = &status.last_error {
        writeln!(
            out,
            "! {} could not be finished at {}: {}\n",
            text::escape_text(version_or(&error.version, &error.deployment.short())),
            text::time(error.time),
            text::escape_text(&error.reason)
        )?;
    }
    for (position, deployment) in status.deployments.iter().enumerate() {
        if position > 0 {
            writeln!(out)?;
        }
        write_deployment(out, deployment)?;
        let trial = status
            .trials
            .iter()
            .find(|trial| trial.deployment == deployment.id);
        for attempt in trial.iter().flat_map(|trial| &trial.attempts) {
            trial::write_attempt(out, attempt)?;
        }
    }
    trial::write_boots(out, status)
}

fn write_deployment(out: &mut dyn Write, deployment: &DeploymentStatus) -> io::Result<()> {
    let mark = if deployment.booted { '●' } else { ' ' };
    let mut roles = vec![deployment.role.to_string()];
    if deployment.default && deployment.booted {
        roles.push("default".to_owned());
    }
    if deployment.pinned {
        roles.push("pinned".to_owned());
    }
    match (deployment.assessment, deployment.tries_left) {
        (Assessment::OnTrial, left) => roles.push(match left {
            Some(left) => format!("on trial, {} left", text::count(left.into(), "try", "tries")),
            None => "on trial".to_owned(),
        }),
        (Assessment::Bad, _) => roles.push("bad".to_owned()),
        _ => {}
    }
    let name = version_or(&deployment.version, &deployment.title);
    writeln!(
        out,
        "{mark} {} {}  {}  [{}]",
        deployment.index,
        deployment.stateroot,
        text::escape_text(name),
        roles.join(", ")
    )?;
    let mut line = |key: &str, value: &str| writeln!(out, "      {key:<10} {value}");
    line(
        "commit",
        &format!("{}.{}", deployment.commit, deployment.id.serial),
    )?;
    if let Some(time) = deployment.time {
        line("committed", &text::time(time))?;
    }
    if let Some(reference) = &deployment.origin.reference {
        let from = deployment.origin.pull_from.as_ref();
        let from = from.map_or_else(String::new, |path| format!(" from {}", text::escape_path(path)));
        line("follows", &format!("{reference}{from}"))?;
    }
    if deployment.origin.unverified {
        line(
            "verified",
            "NO: it was pulled with --no-verify, and nobody vouches for it",
        )?;
    } else if !deployment.origin.keys.is_empty() {
        let keys: Vec<_> = deployment.origin.keys.iter().map(String::as_str).collect();
        line(
            "verified",
            &format!("by key {}", text::escape_text(&keys.join(", "))),
        )?;
    }
    if deployment.role == Role::Staged {
        line("finished", "at shutdown, with /etc as it is then")?;
    }
    if let Some(root) = root(deployment) {
        line("root", &root)?;
    }
    line("kargs", &text::escape_text(&deployment.kargs))?;
    if deployment.etc_conflicts > 0 {
        line(
            "etc",
            &text::count(deployment.etc_conflicts, "conflict", "conflicts"),
        )?;
    }
    Ok(())
}

/// What to say of a root that is not files alone.
fn root(deployment: &DeploymentStatus) -> Option<String> {
    let image = deployment.image.as_ref().map_or_else(
        || "an image that cannot be read".to_owned(),
        |image| {
            let digest: String = image.digest.to_hex().chars().take(12).collect();
            format!("image {digest} of {}", text::size(image.bytes))
        },
    );
    let runs = match (deployment.booted, deployment.image_booted) {
        (false, _) => "",
        (true, true) => "; the image runs",
        (true, false) => "; the files run",
    };
    match deployment.root {
        RootKind::FilesAndImage => Some(format!("files, and {image}{runs}")),
        RootKind::Image => Some(image),
        RootKind::VerifiedImage => {
            let signers: Vec<_> = deployment.sealed_by.iter().map(ToString::to_string).collect();
            let how = match (&deployment.verified_by, signers.is_empty()) {
                (Some(key), _) => format!("verified by key {key}"),
                (None, false) => format!("sealed by {}", signers.join(", ")),
                (None, true) => "with a seal that cannot be read".to_owned(),
            };
            Some(format!("{image}, {how}"))
        }
        _ => None,
    }
}
