//! What the kernel says of this machine's memory.

use anyhow::{Context, Result};

/// Returns a figure of `/proc/meminfo`, such as `MemTotal`, in bytes.
///
/// # Errors
/// If it is not there.
pub fn bytes(figure: &str) -> Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    find(&text, figure).with_context(|| format!("{path} has no {figure}"))
}

fn find(text: &str, figure: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
        (name == figure).then(|| kibibytes.saturating_mul(1024))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let text = "MemTotal:       16000000 kB\nMemFree:          200000 kB\nHugePages_Total:       0\n";
        assert_eq!(find(text, "MemFree"), Some(204_800_000));
        assert_eq!(find(text, "Mem"), None);
        assert_eq!(find(text, "HugePages_Total"), None, "that is a count");
    }

    #[test]
    fn this_machine_has_some() {
        assert!(bytes("MemAvailable").unwrap() <= bytes("MemTotal").unwrap());
    }
}
