//! What GRUB sees on a disk: without replaying a journal, by its own file system drivers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// An entry, as GRUB would boot it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Paths of the kernel and of the initramfs.
    pub files: Vec<String>,
    /// The deployment, `<stateroot>/<commit>.<serial>`.
    pub deployment: String,
}

/// All that GRUB sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The entries that it would offer, by the name of their file.
    pub entries: BTreeMap<String, Entry>,
    /// The menu, in its order.
    pub menu: Vec<Entry>,
    /// What the menu loads instead, where the first choice cannot be counted or loaded.
    pub instead: Vec<Entry>,
    /// The digest of each file that an entry or the menu names; `None` where it cannot be read.
    pub files: BTreeMap<String, Option<blake3::Hash>>,
}

/// Looks at `/boot`, which is at `boot` on the disk.
///
/// # Errors
/// If GRUB cannot read the file system at all.
pub fn look(disk: &Path, boot: &str) -> Result<View> {
    let listed = run(disk, &["ls", &format!("(loop0){boot}/loader/entries/")])?
        .with_context(|| format!("GRUB cannot list {boot}/loader/entries"))?;
    let mut entries = BTreeMap::new();
    for name in String::from_utf8_lossy(&listed).split_whitespace() {
        if name.starts_with('.') || !name.ends_with(".conf") {
            continue;
        }
        // A name without a file is what GRUB passes over: while an obsolete entry goes, XFS may have freed the inode in its
        // place before the directory has changed in its own.
        let text = run(disk, &["cat", &format!("(loop0){boot}/loader/entries/{name}")])?;
        let text = text.unwrap_or_default();
        if let Some(entry) = parse_entry(&String::from_utf8_lossy(&text)) {
            entries.insert(name.to_owned(), entry);
        }
    }
    let menu = run(disk, &["cat", &format!("(loop0){boot}/grub/atomos.cfg")])?
        .context("GRUB cannot read its menu")?;
    let (menu, instead) = parse_menu(&String::from_utf8_lossy(&menu), boot);
    let mut files = BTreeMap::new();
    for path in entries
        .values()
        .chain(&menu)
        .chain(&instead)
        .flat_map(|entry| &entry.files)
    {
        if !files.contains_key(path) {
            let bytes = run(disk, &["cat", &format!("(loop0){path}")])?;
            files.insert(path.clone(), bytes.map(|bytes| blake3::hash(&bytes)));
        }
    }
    Ok(View {
        entries,
        menu,
        instead,
        files,
    })
}

/// Returns what GRUB says, or `None` where it says that it cannot.
fn run(disk: &Path, words: &[&str]) -> Result<Option<Vec<u8>>> {
    let output = Command::new("grub-fstest")
        .arg(disk)
        .args(words)
        .output()
        .context("cannot start grub-fstest")?;
    ensure!(
        output.status.code().is_some(),
        "grub-fstest died on {}: {}",
        words.join(" "),
        output.status
    );
    Ok(output.status.success().then_some(output.stdout))
}

/// Reads an entry; one without a kernel is not offered.
#[must_use]
pub fn parse_entry(text: &str) -> Option<Entry> {
    let values = |key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let mut files = values("linux");
    if files.is_empty() {
        return None;
    }
    files.extend(values("initrd"));
    let options = values("options").join(" ");
    let deployment = options.split(' ').find_map(|word| word.strip_prefix("atomos="))?;
    Some(Entry {
        files,
        deployment: deployment.to_owned(),
    })
}

/// Reads the menu that atomos writes: what each of its entries loads, and what some load instead. `boot` stands for the
/// variable in its paths.
#[must_use]
pub fn parse_menu(text: &str, boot: &str) -> (Vec<Entry>, Vec<Entry>) {
    let (mut menu, mut instead) = (Vec::new(), Vec::new());
    for block in text.split("menuentry ").skip(1) {
        let mut choices: Vec<Entry> = Vec::new();
        for line in block.lines() {
            let mut words = line.split_whitespace().map(|word| word.trim_matches('\''));
            match words.next() {
                Some("linux") => choices.push(Entry {
                    files: Vec::new(),
                    deployment: String::new(),
                }),
                Some("initrd") => {}
                _ => continue,
            }
            let Some(entry) = choices.last_mut() else {
                continue;
            };
            for word in words {
                if let Some(path) = word.strip_prefix("\"${atomos_boot}\"'") {
                    entry.files.push(format!("{boot}{path}"));
                } else if let Some(deployment) = word.strip_prefix("atomos=") {
                    entry.deployment = deployment.to_owned();
                }
            }
        }
        let mut choices = choices.into_iter();
        menu.extend(choices.next());
        instead.extend(choices);
    }
    (menu, instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_and_the_menu_say_the_same() {
        let entry = parse_entry(
            "title A 1\nversion 1-1\nlinux /boot/atomos/os-a/vmlinuz\ninitrd /boot/atomos/os-a/initramfs.img\n\
             options root=LABEL=root quiet atomos=os/abc.0\n",
        )
        .unwrap();
        let (menu, instead) = parse_menu(
            "# header\nmenuentry 'A 1' --id 'atomos-1' {\n\
             \tlinux \"${atomos_boot}\"'/atomos/os-a/vmlinuz' 'root=LABEL=root' 'quiet' 'atomos=os/abc.0'\n\
             \tinitrd \"${atomos_boot}\"'/atomos/os-a/initramfs.img'\n}\n",
            "/boot",
        );
        assert_eq!((menu, instead.len()), (vec![entry], 0));
    }

    #[test]
    fn an_entry_without_a_kernel_is_not_offered() {
        assert_eq!(parse_entry("title A\n#inux /a\noptions atomos=os/abc.0\n"), None);
        assert_eq!(parse_menu("# nothing\n", ""), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_is_loaded_instead_is_no_first_choice() {
        let (menu, instead) = parse_menu(
            "menuentry 'B 2' --id 'atomos-2' {\n\t\tif\n\
             \tlinux \"${atomos_boot}\"'/atomos/os-b/vmlinuz' 'atomos=os/b.0'\n\t\tthen\n\
             \tinitrd \"${atomos_boot}\"'/atomos/os-b/initramfs.img'\n\t\tfi\n\
             \t\tlinux \"${atomos_boot}\"'/atomos/os-a/vmlinuz' 'atomos=os/a.0'\n\
             \t\tinitrd \"${atomos_boot}\"'/atomos/os-a/initramfs.img'\n}\n",
            "",
        );
        let entry = |name: &str| Entry {
            files: ["vmlinuz", "initramfs.img"]
                .map(|file| format!("/atomos/os-{name}/{file}"))
                .into(),
            deployment: format!("os/{name}.0"),
        };
        assert_eq!((menu, instead), (vec![entry("b")], vec![entry("a")]));
    }
}
