//! What `commit --os` changed, in one screen.

use std::io::{self, Write};

use libatomos::commit::{Dropped, Moved, OsTreeReport, OsTreeWarning};
use libatomos::unpack::UpdateCost;

use super::text::{count, escape_text, size};

/// Columns that a list is broken at. Lines of paths may be longer.
const WIDTH: usize = 96;

/// Entries of a list that are shown; it says how many more there are. The JSON has all.
const SHOWN: usize = 24;

/// Entries dropped beneath one directory that are named; more are counted.
const NAMED: usize = 3;

/// Writes what was moved, linked, made up and dropped, a few words each.
pub fn write(out: &mut dyn Write, report: &OsTreeReport) -> io::Result<()> {
    if report.is_unchanged() {
        return writeln!(out, "The tree can be deployed as it is");
    }
    match &report.kernel {
        Some(kernel) => {
            let initramfs = if kernel.initramfs { "with" } else { "without" };
            let version = escape_text(&kernel.version);
            writeln!(
                out,
                "Made the tree deployable: kernel {version}, {initramfs} initramfs"
            )?;
            if !kernel.others.is_empty() {
                let others = escape_text(&kernel.others.join(", "));
                writeln!(
                    out,
                    "  kernel   chosen as the newest or by name; not used: {others}"
                )?;
            }
        }
        None => writeln!(out, "Made the tree deployable: it has no kernel")?,
    }
    moved(out, report)?;
    let unpacked: Vec<String> = report
        .unpacked
        .iter()
        .map(|unpacked| {
            let files = count(unpacked.files, "file", "files");
            format!("{}: {files}, {} compressed", unpacked.what, size(unpacked.bytes))
        })
        .collect();
    list(out, "unpacked", &unpacked)?;
    let links: Vec<String> = report
        .linked
        .iter()
        .map(|link| format!("/{} → {}", escape_text(&link.path), escape_text(&link.target)))
        .collect();
    list(out, "linked", &links)?;
    let made: Vec<String> = report
        .generated
        .iter()
        .map(|made| format!("/{} ({})", escape_text(&made.path), escape_text(&made.what)))
        .collect();
    list(out, "made", &made)?;
    let dropped: Vec<String> = report.dropped.iter().map(describe_dropped).collect();
    list(out, "dropped", &dropped)
}

/// Says a warning, with sizes as people read them and long lists cut.
pub fn describe_warning(warning: &OsTreeWarning) -> String {
    match warning {
        OsTreeWarning::Compressed { what, cost } => format!("compressed {what}: {}", describe_cost(cost)),
        OsTreeWarning::LeftPacked { reason, paths } => {
            let more = match paths.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown = paths[..paths.len().min(NAMED)].join(" /");
            format!("not unpacked, since {}: /{shown}{more}", reason.describe())
        }
        other => other.to_string(),
    }
}

/// Says what compressed files cost. It is an estimate, and says so.
pub fn describe_cost(cost: &UpdateCost) -> String {
    format!(
        "{}, {}, which an update sends whole where they change; unpacked, patches would be about {} (an estimate)",
        count(cost.files, "file", "files"),
        size(cost.bytes),
        size(cost.patched)
    )
}

/// Files that went from one directory to another share a line; empty directories that became links have none.
fn moved(out: &mut dyn Write, report: &OsTreeReport) -> io::Result<()> {
    let mut groups: Vec<(String, String, u64, u64)> = Vec::new();
    for entry in &report.moved {
        let linked = report.linked.iter().any(|link| link.path == entry.from);
        if linked && entry.files == 0 {
            continue;
        }
        let (from, to) = place(entry);
        match groups.iter_mut().find(|group| group.0 == from && group.1 == to) {
            Some(group) => {
                group.2 += entry.files;
                group.3 += entry.bytes;
            }
            None => groups.push((from, to, entry.files, entry.bytes)),
        }
    }
    for (from, to, files, bytes) in groups {
        let what = format!("{}, {}", count(files, "file", "files"), size(bytes));
        writeln!(out, "  moved    {from} → {to} ({what})")?;
    }
    Ok(())
}

fn place(entry: &Moved) -> (String, String) {
    match (entry.from.strip_prefix("boot/"), entry.to.rsplit_once('/')) {
        (Some(_), Some((to, _))) => ("/boot/…".to_owned(), format!("/{}/", escape_text(to))),
        _ => (
            format!("/{}", escape_text(&entry.from)),
            format!("/{}", escape_text(&entry.to)),
        ),
    }
}

fn describe_dropped(dropped: &Dropped) -> String {
    let reason = dropped.reason.describe();
    let size = if dropped.bytes > 0 {
        format!(", {}", size(dropped.bytes))
    } else {
        String::new()
    };
    if dropped.paths.len() <= NAMED {
        let paths: Vec<String> = dropped
            .paths
            .iter()
            .map(|path| format!("/{}", escape_text(path)))
            .collect();
        return format!("{} ({reason}{size})", paths.join(" "));
    }
    let number = count(dropped.paths.len() as u64, "entry", "entries");
    format!("{number} in /{} ({reason}{size})", escape_text(&dropped.beneath))
}

/// Writes `title` and the entries after it, broken into lines.
fn list(out: &mut dyn Write, title: &str, entries: &[String]) -> io::Result<()> {
    let mut shown: Vec<String> = entries.iter().take(SHOWN).cloned().collect();
    if entries.len() > SHOWN {
        shown.push(format!("and {} more", entries.len() - SHOWN));
    }
    let mut line = String::new();
    let mut title = title;
    for (index, entry) in shown.iter().enumerate() {
        let separator = if index + 1 < shown.len() { "," } else { "" };
        if !line.is_empty() && line.chars().count() + entry.chars().count() > WIDTH {
            writeln!(out, "  {title:<8} {line}")?;
            title = "";
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(entry);
        line.push_str(separator);
    }
    if !line.is_empty() {
        writeln!(out, "  {title:<8} {line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libatomos::commit::{DropReason, KernelReport, Linked};

    use super::*;

    fn render(report: &OsTreeReport) -> String {
        let mut out = Vec::new();
        write(&mut out, report).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn moved(from: &str, to: &str, files: u64) -> Moved {
        Moved {
            from: from.to_owned(),
            to: to.to_owned(),
            files,
            bytes: files * 1000,
        }
    }

    #[test]
    fn a_debian_tree_fits_on_a_screen() {
        let mut report = OsTreeReport::default();
        report.kernel = Some(KernelReport {
            version: "6.1".to_owned(),
            initramfs: true,
            others: Vec::new(),
        });
        report.moved = vec![
            moved("etc", "usr/etc", 365),
            moved("boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz", 1),
            moved("boot/initrd.img-6.1", "usr/lib/modules/6.1/initramfs.img", 1),
            moved("home", "var/home", 0),
        ];
        report.linked = vec![Linked {
            path: "home".to_owned(),
            target: "var/home".to_owned(),
        }];
        report.dropped = vec![
            Dropped {
                beneath: "dev".to_owned(),
                reason: DropReason::Volatile,
                paths: (0..14).map(|number| format!("dev/{number}")).collect(),
                bytes: 0,
            },
            Dropped {
                beneath: String::new(),
                reason: DropReason::BootLoader,
                paths: vec!["vmlinuz".to_owned()],
                bytes: 0,
            },
        ];
        assert_eq!(
            render(&report),
            "Made the tree deployable: kernel 6.1, with initramfs\n\
             \x20 moved    /etc → /usr/etc (365 files, 365.0 kB)\n\
             \x20 moved    /boot/… → /usr/lib/modules/6.1/ (2 files, 2.0 kB)\n\
             \x20 linked   /home → var/home\n\
             \x20 dropped  14 entries in /dev (lives only while a system runs), /vmlinuz (for the boot loader)\n"
        );
    }

    #[test]
    fn a_long_list_is_cut_and_names_cannot_talk_to_the_terminal() {
        let mut report = OsTreeReport::default();
        report.linked = (0..30)
            .map(|number| Linked {
                path: format!("{number}\x1b[31m"),
                target: "x".to_owned(),
            })
            .collect();
        let text = render(&report);
        assert!(text.contains("and 6 more"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_tree_in_shape_takes_one_line() {
        assert_eq!(
            render(&OsTreeReport::default()),
            "The tree can be deployed as it is\n"
        );
    }
}
