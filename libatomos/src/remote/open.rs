//! From a configuration to transports.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::error::with_causes;
#[cfg(feature = "http")]
use crate::transport::is_same_origin;
use crate::transport::{DirTransport, Request, Response, Transport, TransportError, TransportErrorKind};

use super::{RemoteConfig, RemoteError};

/// What the environment says of proxies. The library does not read the environment; a program may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnvironment {
    /// For http sites (`http_proxy`).
    pub http: Option<String>,
    /// For https sites (`https_proxy`).
    pub https: Option<String>,
    /// Hosts that are reached directly (`no_proxy`): names, `.suffixes`, addresses, or `*`, with commas between them.
    pub except: Option<String>,
}

impl ProxyEnvironment {
    /// Returns the proxy for a site.
    #[must_use]
    pub fn proxy_of(&self, scheme: &str, host: &str) -> Option<&str> {
        let host = host
            .trim_matches(['[', ']'])
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let excepted = self.except.iter().flat_map(|list| list.split(',')).any(|entry| {
            let entry = entry.trim().to_ascii_lowercase();
            let name = entry
                .trim_start_matches("*.")
                .trim_start_matches('.')
                .trim_matches(['[', ']']);
            let is_beneath = || {
                host.strip_suffix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            entry == "*" || (!name.is_empty() && is_beneath())
        });
        if excepted {
            return None;
        }
        match scheme {
            "http" => self.http.as_deref(),
            "https" => self.https.as_deref(),
            _ => None,
        }
        .filter(|proxy| !proxy.is_empty())
    }
}

/// What is not in the configuration.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// What the environment says of proxies.
    pub proxies: ProxyEnvironment,
    /// A time that is surely past, in seconds since 1970: certificates are judged as of then where the machine's clock
    /// is behind it.
    pub not_before: i64,
    /// The latest time that a signed record said. It may be wrong, if a key was stolen, so a certificate may be valid as of
    /// this time or of the clock's.
    pub seen: i64,
    /// Ends every wait when it is set.
    pub cancel: Cancel,
}

/// Returns the path of a site in a directory; `None` for one that is reached otherwise.
pub(super) fn local_path(url: &str) -> Option<Result<PathBuf, String>> {
    if url.starts_with('/') {
        return Some(Ok(url.into()));
    }
    let rest = url.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Some(Err("a file URL is file:// and an absolute path".to_owned()));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte != 0 => bytes.push(byte),
            _ => return Some(Err("a % takes two hexadecimal digits after it".to_owned())),
        }
        rest = &rest[2..];
    }
    Some(Ok(OsString::from_vec(bytes).into()))
}

/// A mirror that cannot be used now, such as a stick that is not plugged in. The others may do without it.
#[derive(Debug)]
struct Absent {
    url: String,
    reason: String,
}

impl Transport for Absent {
    fn url(&self) -> &str {
        &self.url
    }

    fn get(&self, _: &Request<'_>) -> Result<Response, TransportError> {
        Err(TransportError::new(
            &self.url,
            TransportErrorKind::Local,
            &self.reason,
        ))
    }
}

/// Returns the remote's mirrors, in order. Nothing is sent yet. A directory that is not there is an error only if there is
/// no other mirror.
pub fn open_mirrors(
    config: &RemoteConfig,
    options: &OpenOptions,
) -> Result<Vec<Box<dyn Transport>>, RemoteError> {
    let open = |url: &String| -> Result<Box<dyn Transport>, RemoteError> {
        let Some(path) = local_path(url) else {
            return http(url, &as_known_to(url, config), options);
        };
        let path =
            path.map_err(|reason| TransportError::new(url.as_str(), TransportErrorKind::Local, reason))?;
        match DirTransport::open(&path) {
            Ok(transport) => Ok(Box::new(transport)),
            Err(error) if config.urls.len() > 1 => Ok(Box::new(Absent {
                url: url.clone(),
                reason: with_causes(&error),
            })),
            Err(source) => Err(RemoteError::Unreadable { path, source }),
        }
    };
    config.urls.iter().map(open).collect()
}

/// Returns the configuration as far as `url` may learn of it: what proves who asks is for the site, the first of the URLs that is not a
/// directory. A mirror is anybody's, and may be asked without TLS. What netrc has for its host is meant for it.
#[cfg(feature = "http")]
fn as_known_to<'c>(url: &str, config: &'c RemoteConfig) -> Cow<'c, RemoteConfig> {
    let site = config.urls.iter().find(|url| local_path(url).is_none());
    if site.is_some_and(|site| is_same_origin(site, url)) {
        return Cow::Borrowed(config);
    }
    Cow::Owned(RemoteConfig {
        user: None,
        password_file: None,
        token_file: None,
        token_command: None,
        client_cert: None,
        client_key: None,
        headers: Default::default(),
        ..config.clone()
    })
}

#[cfg(not(feature = "http"))]
fn as_known_to<'c>(_: &str, config: &'c RemoteConfig) -> Cow<'c, RemoteConfig> {
    Cow::Borrowed(config)
}

#[cfg(not(feature = "http"))]
fn http(url: &str, _: &RemoteConfig, _: &OpenOptions) -> Result<Box<dyn Transport>, RemoteError> {
    Err(crate::transport::TransportError::new(
        url,
        crate::transport::TransportErrorKind::Local,
        "this program was built without http",
    )
    .into())
}

/// Returns the scheme, and the host without its port.
#[cfg(feature = "http")]
fn scheme_and_host(url: &str) -> (String, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    (scheme.to_ascii_lowercase(), host)
}

#[cfg(feature = "http")]
fn http(url: &str, config: &RemoteConfig, options: &OpenOptions) -> Result<Box<dyn Transport>, RemoteError> {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::transport::{ClientCertificate, Clock, HttpOptions, HttpTransport, is_proxy, without_secrets};

    use super::credentials::{authorization, read_certificates, read_file};

    let client_certificate = match (&config.client_cert, &config.client_key) {
        (Some(chain), Some(key)) => Some(ClientCertificate {
            chain: read_certificates(chain)?,
            key: read_file(key)?,
        }),
        _ => None,
    };
    let (scheme, host) = scheme_and_host(url);
    let proxy = match config.proxy.as_deref() {
        Some("none") => None,
        Some(proxy) => Some(proxy.to_owned()),
        None => options.proxies.proxy_of(&scheme, host).map(str::to_owned),
    };
    if let Some(proxy) = proxy.as_deref().filter(|proxy| !is_proxy(proxy)) {
        let reason = format!(
            "its proxy {}, which `{scheme}_proxy` or `all_proxy` in the environment names, is no http or https URL",
            without_secrets(proxy)
        );
        // That of a configuration has been looked at.
        return Err(TransportError::new(url, TransportErrorKind::Local, reason).into());
    }
    let defaults = HttpOptions::default();
    let seconds = |value: Option<u64>| value.map(Duration::from_secs);
    let not_before = options.not_before;
    let clock = Clock::default();
    let http = HttpOptions {
        ca: config.ca_file.as_deref().map(read_certificates).transpose()?,
        client_certificate,
        proxy,
        headers: config.headers.clone().into_iter().collect(),
        authorization: authorization(config, &options.cancel),
        connect_timeout: seconds(config.connect_timeout).unwrap_or(defaults.connect_timeout),
        stall_timeout: seconds(config.stall_timeout).unwrap_or(defaults.stall_timeout),
        request_timeout: seconds(config.request_timeout).or(defaults.request_timeout),
        clock: Clock(Arc::new(move || (clock.0)().max(not_before))),
        seen: options.seen,
        cancel: options.cancel.clone(),
        ..defaults
    };
    Ok(Box::new(HttpTransport::new(url, http)?))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests {
    use super::*;

    #[test]
    fn hosts_are_excepted_from_proxies_by_name_and_suffix() {
        let proxies = ProxyEnvironment {
            http: Some("http://p:1".to_owned()),
            https: None,
            except: Some("localhost, .lan,example.org,*.star,[::1],10.0.0.1,,".to_owned()),
        };
        for (host, proxied) in [
            ("localhost", false),
            ("a.lan", false),
            ("lan", false),
            ("plan", true),
            ("www.EXAMPLE.org", false),
            ("example.com", true),
            ("a.star", false),
            ("::1", false),
            ("10.0.0.1", false),
            ("10.0.0.11", true),
        ] {
            assert_eq!(proxies.proxy_of("http", host).is_some(), proxied, "{host}");
        }
        assert_eq!(proxies.proxy_of("https", "example.com"), None);
    }

    #[test]
    fn a_file_url_is_an_absolute_path() {
        let path = |url| local_path(url).map(|path| path.map(|path| path.display().to_string()));
        assert_eq!(path("/media/a b"), Some(Ok("/media/a b".to_owned())));
        assert_eq!(path("file:///media/a%20b"), Some(Ok("/media/a b".to_owned())));
        assert_eq!(path("file://localhost/media"), Some(Ok("/media".to_owned())));
        for bad in [
            "file://media/a",
            "file://",
            "file:///a%",
            "file:///a%2",
            "file:///%00",
            "file:///%+1",
            "file:///%é",
        ] {
            assert!(path(bad).unwrap().is_err(), "{bad}");
        }
        assert_eq!(path("https://host/a"), None);
    }

    #[test]
    #[cfg(feature = "http")]
    fn a_port_is_no_part_of_a_host() {
        for (url, scheme, host) in [
            ("http://a.example:80/x:1", "http", "a.example"),
            ("HTTPS://[::1]:8443", "https", "::1"),
            ("https://[fe80::2]/x", "https", "fe80::2"),
            ("http://a", "http", "a"),
        ] {
            assert_eq!(scheme_and_host(url), (scheme.to_owned(), host));
        }
    }

    #[test]
    fn a_stick_that_is_not_plugged_in_stops_nobody_who_has_another_mirror() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("atomos.json"), "{}").unwrap();
        let mut config = RemoteConfig {
            urls: vec!["/nowhere/stick".to_owned()],
            ..RemoteConfig::default()
        };
        let open = |config: &RemoteConfig| open_mirrors(config, &OpenOptions::default());
        assert!(open(&config).unwrap_err().to_string().contains("/nowhere/stick"));
        config.urls.push(scratch.path().display().to_string());
        let mirrors = open(&config).unwrap();
        let request = Request::whole("atomos.json", 10);
        assert!(mirrors[0].get(&request).is_err());
        assert!(mirrors[1].get(&request).is_ok());
    }
}
