//! Who asks: user and password, netrc, a token from a file or a command. None of it stands in a message.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fs::Dir;
use crate::transport::Authorization;

use super::{RemoteConfig, RemoteError};

/// Bytes in a file of secrets or certificates.
const MAX_FILE: usize = 1024 * 1024;

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, RemoteError> {
    let fail = |reason: String| RemoteError::File {
        path: path.to_owned(),
        reason,
    };
    let name = path.file_name().ok_or_else(|| fail("it is no file".to_owned()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Dir::open_ambient(parent.unwrap_or(Path::new(".")))
        .and_then(|dir| dir.read(name, MAX_FILE))
        .map_err(|error| fail(error.to_string()))
}

fn read_line(path: &Path) -> Result<String, String> {
    let bytes = read_file(path).map_err(|error| error.to_string())?;
    one_line(&bytes).ok_or_else(|| format!("{} does not hold one line of text", path.display()))
}

fn one_line(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty() && !text.contains(['\n', '\r', '\0'])).then(|| text.to_owned())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Returns what the configuration says.
pub(super) fn authorization(config: &RemoteConfig) -> Result<Option<Arc<dyn Authorization>>, RemoteError> {
    let way = if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
        Way::Password(user.clone(), file.clone())
    } else if let Some(file) = &config.token_file {
        Way::TokenFile(file.clone())
    } else if let Some(command) = &config.token_command {
        Way::TokenCommand(command.clone())
    } else if let Some(file) = &config.netrc_file {
        Way::Netrc(file.clone())
    } else {
        return Ok(None);
    };
    Ok(Some(Arc::new(Credentials {
        way,
        value: Mutex::default(),
    })))
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
    value: Mutex<Option<Option<String>>>,
}

impl Authorization for Credentials {
    fn value(&self, host: &str, refused: bool) -> Result<Option<String>, String> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(value), false) = (&*value, refused) {
            return Ok(value.clone());
        }
        let new = match &self.way {
            Way::Password(user, file) => Some(basic(user, &read_line(file)?)),
            Way::TokenFile(file) => Some(format!("Bearer {}", read_line(file)?)),
            Way::TokenCommand(command) => Some(format!("Bearer {}", run(command)?)),
            Way::Netrc(file) => {
                let bytes = read_file(file).map_err(|error| error.to_string())?;
                netrc(&String::from_utf8_lossy(&bytes), host).map(|(user, password)| basic(&user, &password))
            }
        };
        *value = Some(new.clone());
        Ok(new)
    }
}

/// Runs the command that prints a token. Its standard error is the user's to see.
fn run(command: &str) -> Result<String, String> {
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run the command for a token: {error}"))?;
    if !output.status.success() {
        return Err(format!("the command for a token failed: {}", output.status));
    }
    one_line(&output.stdout).ok_or_else(|| "the command for a token did not print one line".to_owned())
}

/// Finds the host in a netrc file; `default` stands for any.
fn netrc(text: &str, host: &str) -> Option<(String, String)> {
    let mut words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_ascii_whitespace);
    let (mut applies, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" => {
                if applies && user.is_some() {
                    break;
                }
                applies =
                    word == "default" || words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                (user, password) = (None, None);
            }
            "login" => user = words.next().map(str::to_owned),
            "password" => password = words.next().map(str::to_owned),
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
    fn a_command_is_run_again_only_when_its_token_was_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let count = scratch.path().join("count");
        let config = RemoteConfig {
            token_command: Some(format!("echo x >> {0}; wc -l < {0}", count.display())),
            ..RemoteConfig::default()
        };
        let credentials = authorization(&config).unwrap().unwrap();
        let value = |refused| credentials.value("h", refused).unwrap().unwrap();
        assert_eq!(
            (value(false), value(false)),
            ("Bearer 1".to_owned(), "Bearer 1".to_owned())
        );
        assert_eq!(
            (value(true), value(false)),
            ("Bearer 2".to_owned(), "Bearer 2".to_owned())
        );
    }
}
