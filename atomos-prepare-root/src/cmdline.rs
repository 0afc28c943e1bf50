//! The kernel command line, and the arguments on it that matter here.
//!
//! `atomos=<stateroot>/<commit>.<serial>` names the deployment itself. The line is split as the kernel splits
//! it: blanks separate, double quotes protect blanks, `--` ends what is meant for the kernel. The last
//! `atomos=` wins, as with every kernel argument, so that a person can append one in the loader's editor.
//! `atomos.<key>=<value>` overrides what the tree says in its `prepare-root.conf`.

use std::fmt;

/// The longest name of a stateroot, in bytes.
const STATEROOT_NAME_MAX: usize = 200;
/// A BLAKE3-256 digest in hexadecimal.
const DIGEST_HEX_LEN: usize = 64;

/// What `atomos=` named: a stateroot and one of its deployments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BootTarget {
    pub(crate) stateroot: String,
    pub(crate) deployment: DeploymentName,
}

impl fmt::Display for BootTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stateroot, self.deployment)
    }
}

/// `<commit>.<serial>`, the name of a deployment's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DeploymentName {
    commit: String,
    serial: u32,
}

impl DeploymentName {
    /// Parses the only spelling the sysroot uses: 64 lower-case hexadecimal digits, a dot, a decimal number
    /// without leading zeros.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (commit, serial) = text.split_once('.')?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if commit.len() != DIGEST_HEX_LEN || !commit.bytes().all(is_hex) {
            return None;
        }
        let number: u32 = serial.parse().ok()?;
        (number.to_string() == serial).then(|| DeploymentName {
            commit: commit.to_owned(),
            serial: number,
        })
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.commit, self.serial)
    }
}

/// What the command line says about atomos.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum BootRequest {
    /// There is no `atomos=`: an ordinary system shares the loader, and this boot is none of our business.
    None,
    /// `atomos=` names a deployment.
    Deployment(BootTarget),
    /// `atomos=` is there and cannot be understood; the text is as it was found.
    Malformed(String),
}

/// Reads the request from the bytes of `/proc/cmdline`.
pub(crate) fn parse(line: &[u8]) -> BootRequest {
    let line = String::from_utf8_lossy(line);
    let mut request = BootRequest::None;
    for argument in split(&line) {
        if argument == "--" {
            break;
        }
        if let Some(value) = argument.strip_prefix("atomos=") {
            request = match parse_target(value) {
                Some(target) => BootRequest::Deployment(target),
                None => BootRequest::Malformed(value.to_owned()),
            };
        }
    }
    request
}

/// Returns every `atomos.<key>=<value>`, in order.
pub(crate) fn settings(line: &[u8]) -> Vec<(String, String)> {
    let line = String::from_utf8_lossy(line);
    split(&line)
        .iter()
        .take_while(|argument| *argument != "--")
        .filter_map(|argument| argument.strip_prefix("atomos.")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn parse_target(value: &str) -> Option<BootTarget> {
    let (stateroot, deployment) = value.split_once('/')?;
    if !is_stateroot_name(stateroot) {
        return None;
    }
    let deployment = DeploymentName::parse(deployment)?;
    Some(BootTarget {
        stateroot: stateroot.to_owned(),
        deployment,
    })
}

/// The same rule as where stateroots are made. Such a name is one component of a path and needs no care in JSON.
fn is_stateroot_name(name: &str) -> bool {
    (1..=STATEROOT_NAME_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

/// Splits at blanks outside double quotes, and drops the quotes.
fn split(line: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                if !current.is_empty() {
                    arguments.push(std::mem::take(&mut current));
                }
            }
            c => current.push(c),
        }
    }
    if !current.is_empty() {
        arguments.push(current);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn deployment(line: &str) -> BootTarget {
        match parse(line.as_bytes()) {
            BootRequest::Deployment(target) => target,
            other => panic!("{line:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_argument_is_found_among_others() {
        let target = deployment(&format!(
            "BOOT_IMAGE=/vmlinuz root=LABEL=x ro atomos=os/{COMMIT}.3 quiet\n"
        ));
        assert_eq!(target.stateroot, "os");
        assert_eq!(target.deployment.to_string(), format!("{COMMIT}.3"));
        assert_eq!(target.deployment.serial(), 3);
    }

    #[test]
    fn the_last_argument_wins_even_when_it_is_bad() {
        assert_eq!(
            deployment(&format!("atomos=a/{COMMIT}.0 atomos=b/{COMMIT}.1")).stateroot,
            "b"
        );
        let line = format!("atomos=a/{COMMIT}.0 atomos=b");
        assert_eq!(parse(line.as_bytes()), BootRequest::Malformed("b".to_owned()));
    }

    #[test]
    fn quotes_protect_blanks_and_are_dropped() {
        let hidden = format!("dyndbg=\"file x +p atomos=a/{COMMIT}.0\"");
        assert_eq!(parse(hidden.as_bytes()), BootRequest::None);
        assert_eq!(deployment(&format!("\"atomos=a/{COMMIT}.0\"")).stateroot, "a");
        assert_eq!(deployment(&format!("atomos=\"a/{COMMIT}.0\"")).stateroot, "a");
    }

    #[test]
    fn what_follows_two_dashes_belongs_to_init() {
        assert_eq!(
            parse(format!("quiet -- atomos=a/{COMMIT}.0").as_bytes()),
            BootRequest::None
        );
    }

    #[test]
    fn a_line_without_the_argument_asks_for_nothing() {
        for line in [
            "",
            "\n",
            "root=/dev/vda1 ro",
            "notatomos=a/b",
            "atomos",
            "atomos.debug=1",
        ] {
            assert_eq!(parse(line.as_bytes()), BootRequest::None, "{line:?}");
        }
    }

    #[test]
    fn settings_are_found_in_order_and_end_where_the_kernel_s_arguments_do() {
        let line = b"ro atomos.etc=transient atomos=x \"atomos.root=a b\" atomos.nothing xatomos.y=1 atomos.etc= -- atomos.z=1";
        let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            settings(line),
            [owned("etc", "transient"), owned("root", "a b"), owned("etc", "")]
        );
    }

    #[test]
    fn every_garbled_value_is_malformed() {
        let long = "x".repeat(STATEROOT_NAME_MAX + 1);
        for value in [
            String::new(),
            "os".to_owned(),
            format!("/{COMMIT}.0"),
            format!("../{COMMIT}.0"),
            format!("./{COMMIT}.0"),
            format!(".os/{COMMIT}.0"),
            format!("a/b/{COMMIT}.0"),
            format!("-os/{COMMIT}.0"),
            format!("o:s/{COMMIT}.0"),
            format!("os/{COMMIT}"),
            format!("os/{COMMIT}."),
            format!("os/{COMMIT}.-1"),
            format!("os/{COMMIT}.+1"),
            format!("os/{COMMIT}.01"),
            format!("os/{COMMIT}.0x1"),
            format!("os/{COMMIT}.4294967296"),
            format!("os/{COMMIT}.0/.."),
            format!("os/{}.0", &COMMIT[1..]),
            format!("os/{}.0", COMMIT.to_uppercase()),
            format!("o\\s/{COMMIT}.0"),
            format!("ö/{COMMIT}.0"),
            format!("{long}/{COMMIT}.0"),
        ] {
            let line = format!("ro atomos={value} quiet");
            assert_eq!(parse(line.as_bytes()), BootRequest::Malformed(value), "{line:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_survived() {
        for line in [
            &b"\xff\xfe atomos=\xff/x"[..],
            b"\"\"\"",
            b"atomos=\"",
            b"\0\0atomos=/",
        ] {
            let _ = parse(line);
        }
        assert!(matches!(parse(b"atomos=\xff/x"), BootRequest::Malformed(_)));
    }
}
