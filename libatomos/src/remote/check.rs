//! The rules of a remote's configuration. Each refusal names the key.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::transport::without_secrets;

use super::RemoteConfig;
use super::open::local_path;

/// Seconds that any of the timeouts may have at most: a week.
const MAX_TIMEOUT: u64 = 7 * 24 * 3600;

/// Connections at once.
const MAX_JOBS: usize = 64;

/// Tries of one mirror.
const MAX_RETRIES: u32 = 100;

/// Headers that say how a request is to be understood, and are the transport's own.
const RESERVED_HEADERS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-none-match",
    "if-range",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn all(config: &RemoteConfig) -> Result<(), String> {
    if config.urls.is_empty() {
        return Err("`urls` has no URL".to_owned());
    }
    let mut seen = BTreeSet::new();
    for text in &config.urls {
        url(text).map_err(|reason| format!("`urls`: {:?}: {reason}", without_secrets(text)))?;
        if !seen.insert(text.trim_end_matches('/')) {
            return Err(format!("`urls`: {text:?} stands twice"));
        }
    }
    if config.key_set.is_some() && !config.keys.is_empty() {
        return Err("only one of `keys` and `key-set` says whom to believe".to_owned());
    }
    match (
        config.keys.is_empty() && config.key_set.is_none(),
        config.no_verify,
    ) {
        (true, false) => return Err("there is no key; `no-verify = true` does without".to_owned()),
        (false, true) => return Err("there are keys, and `no-verify` says not to use them".to_owned()),
        _ => {}
    }
    config.pinned_keys().map_err(|reason| match config.key_set {
        Some(_) => format!("`key-set`: {reason}"),
        None => format!("`keys`: {reason}"),
    })?;
    for name in &config.compatible {
        if name.is_empty() || name.len() > 200 || name.contains(char::is_control) {
            return Err(format!("`compatible`: {name:?} is no name"));
        }
    }
    files(config)?;
    credentials(config)?;
    if let Some(proxy) = &config.proxy {
        let bare = without_secrets(proxy);
        let reached = bare.split_once("://").is_some_and(|(scheme, rest)| {
            matches!(scheme, "http" | "https") && !rest.starts_with([':', '/']) && !rest.is_empty()
        });
        if proxy != "none" && !(reached && is_plain(proxy)) {
            return Err("`proxy` is an http or https URL, or \"none\"".to_owned());
        }
    }
    headers(config)?;
    numbers(config)
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn url(text: &str) -> Result<(), &'static str> {
    if let Some(path) = local_path(text) {
        return match path {
            Ok(_) if text.contains('\0') => Err("it is no path"),
            Ok(_) => Ok(()),
            Err(_) => {
                Err("a file URL is file:// and an absolute path, % with two hexadecimal digits after it")
            }
        };
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("it is no http, https or file URL, and no absolute path");
    };
    if !matches!(scheme, "http" | "https") {
        return Err("it is no http, https or file URL, and no absolute path");
    }
    if !is_plain(text) {
        return Err("only what can be typed without a space may stand in it");
    }
    if rest.contains(['?', '#']) {
        return Err("a site's URL has no query");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a user's name stands in `user`, not in the URL");
    }
    let after_host = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("an address in brackets has no end")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("in brackets stands an IPv6 address");
            }
            if !(after.is_empty() || after.starts_with(':')) {
                return Err("after an address in brackets stands nothing but a port");
            }
            after
        }
        None => authority,
    };
    let host = authority.split(':').next().unwrap_or_default();
    if host.is_empty() {
        return Err("it has no host");
    }
    let is_unlike_hosts = |c: char| !(c.is_ascii_alphanumeric() || "-._~%".contains(c));
    if !host.starts_with('[') && host.contains(is_unlike_hosts) {
        return Err("its host is no name and no address");
    }
    if let Some((_, port)) = after_host.rsplit_once(':')
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err("its port is no number from 1 to 65535");
    }
    Ok(())
}

/// The library does not know from which directory a later run starts.
fn files(config: &RemoteConfig) -> Result<(), String> {
    let files: [(&str, &Option<PathBuf>); 6] = [
        ("ca-file", &config.ca_file),
        ("client-cert", &config.client_cert),
        ("client-key", &config.client_key),
        ("password-file", &config.password_file),
        ("token-file", &config.token_file),
        ("netrc-file", &config.netrc_file),
    ];
    for (key, file) in files {
        if let Some(file) = file
            && !file.is_absolute()
        {
            return Err(format!("`{key}` is an absolute path, not {}", file.display()));
        }
    }
    if config.client_cert.is_some() != config.client_key.is_some() {
        return Err("`client-cert` and `client-key` go together".to_owned());
    }
    Ok(())
}

fn credentials(config: &RemoteConfig) -> Result<(), String> {
    if config.user.is_some() != config.password_file.is_some() {
        return Err("`user` and `password-file` go together".to_owned());
    }
    let ways = [
        config.user.is_some(),
        config.token_file.is_some(),
        config.token_command.is_some(),
        config.netrc_file.is_some(),
        config
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("authorization")),
    ];
    if ways.iter().filter(|used| **used).count() > 1 {
        return Err(
            "only one of `user`, `token-file`, `token-command`, `netrc-file` and a header `Authorization` can be used"
                .to_owned(),
        );
    }
    if let Some(user) = &config.user
        && (user.contains(':') || user.contains(char::is_control))
    {
        return Err("`user` has no colon in it".to_owned());
    }
    if let Some(command) = &config.token_command
        && (command.trim().is_empty() || command.contains('\0'))
    {
        return Err("`token-command` is no command".to_owned());
    }
    Ok(())
}

fn headers(config: &RemoteConfig) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, value) in &config.headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("`headers`: {name:?} is no header's name"));
        }
        let lower = name.to_ascii_lowercase();
        if RESERVED_HEADERS.contains(&lower.as_str()) {
            return Err(format!("`headers`: {name} is set by the program itself"));
        }
        if !seen.insert(lower) {
            return Err(format!("`headers`: {name} stands twice"));
        }
        // The value may be secret: it stays out of the message.
        if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') || value.trim() != value {
            return Err(format!("`headers`: the value of {name} cannot be sent"));
        }
    }
    Ok(())
}

fn numbers(config: &RemoteConfig) -> Result<(), String> {
    let timeouts = [
        ("connect-timeout", config.connect_timeout),
        ("stall-timeout", config.stall_timeout),
        ("request-timeout", config.request_timeout),
    ];
    for (key, value) in timeouts {
        if value.is_some_and(|value| value == 0 || value > MAX_TIMEOUT) {
            return Err(format!("`{key}` is from 1 to {MAX_TIMEOUT} seconds"));
        }
    }
    if config.jobs.is_some_and(|jobs| jobs == 0 || jobs > MAX_JOBS) {
        return Err(format!("`jobs` is from 1 to {MAX_JOBS}"));
    }
    if config.retries.is_some_and(|retries| retries > MAX_RETRIES) {
        return Err(format!("`retries` is {MAX_RETRIES} at most"));
    }
    // A TOML file has no larger number.
    if config
        .limit_rate
        .is_some_and(|rate| rate == 0 || rate > i64::MAX as u64)
    {
        return Err("`limit-rate` is 1 byte per second at least".to_owned());
    }
    Ok(())
}
