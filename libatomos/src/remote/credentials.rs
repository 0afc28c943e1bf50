//! Who asks: user and password, netrc, a token from a file or a command. None of it stands in a message.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cancel::Cancel;
use crate::error::with_causes;
use crate::fs::Dir;
use crate::transport::Authorization;

use super::{RemoteConfig, RemoteError};

/// Bytes in a file of secrets or certificates.
const MAX_FILE: usize = 1024 * 1024;

/// Bytes that a command for a token may print.
const MAX_TOKEN: u64 = 64 * 1024;

/// How long such a command may take. It may ask a server of its own.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, RemoteError> {
    let name = path.file_name().ok_or_else(|| RemoteError::File {
        path: path.to_owned(),
        reason: "it is no file".to_owned(),
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Dir::open_ambient(parent.unwrap_or(Path::new(".")))
        .and_then(|dir| dir.read(name, MAX_FILE))
        .map_err(|source| RemoteError::Unreadable {
            path: path.to_owned(),
            source,
        })
}

/// Reads a file of certificates in PEM. Whoever uses them does not know the file's name any more.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<u8>, RemoteError> {
    let bytes = read_file(path)?;
    let label = b"-----BEGIN CERTIFICATE-----";
    if !bytes.windows(label.len()).any(|part| part == label) {
        return Err(RemoteError::File {
            path: path.to_owned(),
            reason: "there is no certificate in it".to_owned(),
        });
    }
    Ok(bytes)
}

fn read_line(path: &Path) -> Result<String, String> {
    let bytes = read_file(path).map_err(|error| with_causes(&error))?;
    one_line(&bytes).ok_or_else(|| format!("{} does not hold one line of text", path.display()))
}

/// Takes one line without its end. Spaces may be part of a password.
fn one_line(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches(['\n', '\r']);
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Returns what the configuration says.
pub(super) fn authorization(config: &RemoteConfig, cancel: &Cancel) -> Option<Arc<dyn Authorization>> {
    let way = if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
        Way::Password(user.clone(), file.clone())
    } else if let Some(file) = &config.token_file {
        Way::TokenFile(file.clone())
    } else if let Some(command) = &config.token_command {
        Way::TokenCommand(command.clone())
    } else if let Some(file) = &config.netrc_file {
        Way::Netrc(file.clone())
    } else {
        return None;
    };
    Some(Arc::new(Credentials {
        way,
        cancel: cancel.clone(),
        value: Mutex::default(),
    }))
}

enum Way {
    Password(String, PathBuf),
    TokenFile(PathBuf),
    TokenCommand(String),
    Netrc(PathBuf),
}

/// Reads, or asks, once, and again when the server refused.
struct Credentials {
    way: Way,
    cancel: Cancel,
    value: Mutex<Option<Option<String>>>,
}

impl Authorization for Credentials {
    fn value(&self, host: &str, refused: Option<&str>) -> Result<Option<String>, String> {
        // Held while a command runs: the others wait for its token instead of asking for their own.
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*value
            && (refused.is_none() || value.as_deref() != refused)
        {
            return Ok(value.clone());
        }
        let new = match &self.way {
            Way::Password(user, file) => Some(basic(user, &read_line(file)?)),
            Way::TokenFile(file) => Some(format!("Bearer {}", read_line(file)?.trim())),
            Way::TokenCommand(command) => Some(format!("Bearer {}", run(command, &self.cancel)?)),
            Way::Netrc(file) => {
                let bytes = read_file(file).map_err(|error| error.to_string())?;
                netrc(&String::from_utf8_lossy(&bytes), host).map(|(user, password)| basic(&user, &password))
            }
        };
        *value = Some(new.clone());
        Ok(new)
    }
}

/// Runs the command that prints a token. Its standard error is the user's to see; what it prints is nobody's.
fn run(command: &str, cancel: &Cancel) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot run the command for a token: {error}");
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let mut output = child.stdout.take();
    // It may print more than a pipe holds before it ends. What it left running may hold the pipe open, so nobody waits
    // for the thread.
    let (send, printed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(output) = &mut output {
            let _ = output.take(MAX_TOKEN).read_to_end(&mut bytes);
        }
        let _ = send.send(bytes);
    });
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        let stop = if cancel.is_cancelled() {
            Some("it was interrupted while the command for a token ran".to_owned())
        } else if Instant::now() > deadline {
            let seconds = COMMAND_TIMEOUT.as_secs();
            Some(format!("the command for a token took more than {seconds} s"))
        } else {
            None
        };
        if let Some(reason) = stop {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(reason);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        return Err(format!("the command for a token failed: {status}"));
    }
    let bytes = printed.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    one_line(&bytes)
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| "the command for a token did not print one line".to_owned())
}

/// Splits a netrc file into words. Quoted ones may have spaces in them; comments and macros are left out.
fn netrc_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        let line = line.trim();
        if in_macro {
            // A macro ends with an empty line.
            in_macro = !line.is_empty();
            continue;
        }
        let mut rest = if line.starts_with('#') { "" } else { line };
        while !rest.is_empty() {
            if let Some(quoted) = rest.strip_prefix('"') {
                let mut word = String::new();
                let mut chars = quoted.chars();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        c => word.push(c),
                    }
                }
                words.push(word);
                rest = chars.as_str().trim_start();
            } else {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                rest = rest[end..].trim_start();
            }
        }
        if let [.., word, _name] = &words[..]
            && word == "macdef"
        {
            words.truncate(words.len() - 2);
            in_macro = true;
        }
    }
    words
}

/// Finds the host in a netrc file; `default` stands for any.
fn netrc(text: &str, host: &str) -> Option<(String, String)> {
    let mut words = netrc_words(text).into_iter();
    let (mut applies, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                if applies {
                    break;
                }
                applies =
                    word == "default" || words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                (user, password) = (None, None);
            }
            "login" => user = words.next(),
            "password" => password = words.next(),
            "account" => drop(words.next()),
            _ => {}
        }
    }
    if applies {
        Some((user?, password.unwrap_or_default()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netrc_gives_each_host_its_own() {
        let text = "machine a.example login u password p\n# machine b.example login no password no\n\
                    machine b.example\n  login v\n  password q\ndefault login anybody password x\n";
        let found = |host| netrc(text, host).map(|(user, password)| format!("{user}:{password}"));
        assert_eq!(found("a.example").unwrap(), "u:p");
        assert_eq!(found("B.example").unwrap(), "v:q");
        assert_eq!(found("c.example").unwrap(), "anybody:x");
        assert_eq!(netrc("machine a login u password p", "b"), None);
    }

    #[test]
    fn netrc_may_quote_and_has_more_in_it_than_passwords() {
        let text = "macdef init\nmachine a login no password no\n\nmachine a account login login \"u v\"\n\
                    password \"p\\\"q\"\n# machine b login x\nmachine b";
        let found = |host| netrc(text, host).map(|(user, password)| format!("{user}:{password}"));
        assert_eq!(found("a").unwrap(), "u v:p\"q");
        assert_eq!(found("b"), None);
    }

    #[test]
    fn a_token_is_one_line_and_what_is_printed_stays_out_of_errors() {
        let run = |command: &str| super::run(command, &Cancel::new());
        assert_eq!(run("printf ' tok\\n'").unwrap(), "tok");
        for command in [
            "printf 'secret\\nsecret'",
            "echo secret; exit 3",
            "true",
            "printf 'secret\\001'",
        ] {
            let error = run(command).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(
            super::run("exec sleep 100", &cancel)
                .unwrap_err()
                .contains("interrupted")
        );
    }

    #[test]
    fn spaces_at_the_ends_of_a_password_belong_to_it() {
        assert_eq!(one_line(b" p \r\n").unwrap(), " p ");
        assert_eq!(one_line(b"\n"), None);
        assert_eq!(one_line(b"a\nb\n"), None);
    }

    #[test]
    fn a_command_is_run_again_only_when_its_token_was_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let count = scratch.path().join("count");
        let config = RemoteConfig {
            token_command: Some(format!("echo x >> {0}; wc -l < {0}", count.display())),
            ..RemoteConfig::default()
        };
        let credentials = authorization(&config, &Cancel::new()).unwrap();
        let value = |refused| credentials.value("h", refused).unwrap().unwrap();
        assert_eq!(
            (value(None), value(None)),
            ("Bearer 1".to_owned(), "Bearer 1".to_owned())
        );
        assert_eq!(value(Some("Bearer 1")), "Bearer 2");
        assert_eq!(value(None), "Bearer 2");
        assert_eq!(
            value(Some("Bearer 1")),
            "Bearer 2",
            "another thread had it renewed already"
        );
    }
}
