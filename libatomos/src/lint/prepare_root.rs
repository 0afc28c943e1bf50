//! What the tree asks of `atomos-prepare-root`, and whether it would be understood.
//!
//! That program knows no library, so its keys stand here once more; a test on each side reads the same example,
//! `bootloader-hooks/prepare-root.conf`.

use super::rules::Findings;
use super::view::{Kind, View};
use super::{Check, SYSTEM_CONF};

/// Where the settings lie.
pub(super) const PATH: &str = "usr/lib/atomos/prepare-root.conf";

/// The words that each key takes.
const WORDS: [(&str, &[&str]); 4] = [
    ("etc", &["persistent", "transient"]),
    ("root", &["read-only", "transient"]),
    ("composefs", &["off", "wanted", "required", "verified"]),
    (WATCHDOG, &["off"]),
];

/// The key that takes seconds, too.
const WATCHDOG: &str = "watchdog";

/// Where the keys are.
const KEYS: [&str; 3] = [
    "usr/lib/atomos/seal.d",
    "usr/etc/atomos/seal.d",
    "etc/atomos/seal.d",
];

/// The longest that a watchdog may wait, in seconds.
const WATCHDOG_MAX: u32 = 24 * 60 * 60;

/// Bytes that the program reads.
const MAX_LEN: usize = 64 * 1024;

/// Looks at the settings, and at who takes over what they start.
pub(super) fn check(view: &View, found: &mut Findings) {
    let Some(node) = view.find(PATH) else {
        return check_keys(view, &[], found);
    };
    if !matches!(view.node(node).kind, Kind::File { .. }) {
        found.at(Check::PrepareRootConf, PATH);
        return;
    }
    // Where only names are known, nothing is said of contents.
    let Some(bytes) = view.texts.get(PATH) else { return };
    // One byte more than the program reads is read, too.
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() <= MAX_LEN);
    let settings = match text.map(parse) {
        Some(Ok(settings)) => settings,
        Some(Err(lines)) => {
            for line in lines {
                found.at(Check::PrepareRootConf, format!("{PATH}:{line}"));
            }
            return;
        }
        None => return found.at(Check::PrepareRootConf, PATH),
    };
    let armed = settings
        .iter()
        .rfind(|(key, _)| key == WATCHDOG)
        .is_some_and(|(_, value)| value != "off");
    if armed && view.file("usr/lib/systemd/systemd").is_some() && !systemd_feeds(view) {
        found.at(Check::WatchdogNotFed, PATH);
    }
    check_keys(view, &settings, found);
}

/// Returns whether the tree asks for a root that is verified, as far as that would be understood.
pub(super) fn is_verified(view: &View) -> bool {
    let text = view
        .texts
        .get(PATH)
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    let settings = text.and_then(|text| parse(text).ok()).unwrap_or_default();
    asks_for_verified(&settings)
}

fn asks_for_verified(settings: &[(String, String)]) -> bool {
    let asked = settings.iter().rfind(|(key, _)| key == "composefs");
    asked.is_some_and(|(_, value)| value == "verified")
}

/// Looks at the keys that the hooks take into the initramfs, and at whether that is what the tree asks for.
fn check_keys(view: &View, settings: &[(String, String)], found: &mut Findings) {
    let mut keys = Vec::new();
    for path in KEYS {
        let Some(dir) = view.dir(path) else { continue };
        let names = view.children(dir).iter().map(|child| &view.node(*child).name);
        let names = names.filter(|name| name.ends_with(b".pub"));
        keys.extend(names.map(|name| format!("{path}/{}", String::from_utf8_lossy(name))));
    }
    let is_verified = asks_for_verified(settings);
    if is_verified && keys.is_empty() {
        found.at(Check::VerifiedWithoutKey, PATH);
    }
    if !is_verified {
        for key in keys {
            found.at(Check::SealKeysUnused, key);
        }
    }
}

/// Returns the settings, or the numbers of the lines that would not be understood.
fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<usize>> {
    let (mut settings, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line
            .split_once('=')
            .map(|(key, value)| (key.trim_end(), value.trim_start()))
        {
            Some((key, value)) if understood(key, value) => settings.push((key.to_owned(), value.to_owned())),
            _ => bad.push(number + 1),
        }
    }
    if bad.is_empty() { Ok(settings) } else { Err(bad) }
}

fn understood(key: &str, value: &str) -> bool {
    let words = WORDS.iter().find(|(name, _)| *name == key);
    words.is_some_and(|(_, words)| words.contains(&value))
        || key == WATCHDOG
            && value
                .parse()
                .is_ok_and(|seconds: u32| (1..=WATCHDOG_MAX).contains(&seconds))
}

/// Whether systemd is told to keep the hardware watchdog from going off.
fn systemd_feeds(view: &View) -> bool {
    let files = view
        .texts
        .iter()
        .filter(|(path, _)| path.contains(SYSTEM_CONF))
        .map(|(_, bytes)| String::from_utf8_lossy(bytes));
    files.into_iter().any(|text| {
        text.lines().any(|line| {
            line.trim()
                .strip_prefix("RuntimeWatchdogSec=")
                .is_some_and(|value| !matches!(value.trim(), "" | "0" | "off"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_says_what_is_understood() {
        let example = include_str!("../../../bootloader-hooks/prepare-root.conf");
        assert_eq!(parse(example), Ok(Vec::new()), "as it is shipped it says nothing");
        let mut words = Vec::new();
        for line in example.lines() {
            let setting = line.strip_prefix('#').filter(|line| !line.starts_with(' '));
            let Some((key, values)) = setting.and_then(|line| line.split_once(" = ")) else {
                continue;
            };
            let values: Vec<_> = values.split(" | ").filter(|value| *value != "SECONDS").collect();
            words.push((key, values));
        }
        let expected: Vec<_> = WORDS
            .iter()
            .map(|(key, values)| (*key, values.to_vec()))
            .collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_not_understood_is_named_by_its_line() {
        assert_eq!(
            parse("etc=transient\n\nroot = rw\nx\n# y\nwatchdog = 86401\nwatchdog = 60 # fine\n"),
            Err(vec![3, 4, 6])
        );
        assert_eq!(
            parse(" watchdog=60\n"),
            Ok(vec![("watchdog".to_owned(), "60".to_owned())])
        );
    }
}
