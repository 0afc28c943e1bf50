//! From a configuration to transports.

use std::path::Path;

use crate::transport::{DirTransport, Transport};

use super::{RemoteConfig, RemoteError};

/// What the environment says of proxies. The library does not read the environment; a program may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnvironment {
    /// For http sites (`http_proxy`).
    pub http: Option<String>,
    /// For https sites (`https_proxy`).
    pub https: Option<String>,
    /// Hosts that are reached directly (`no_proxy`): names, `.suffixes`, or `*`, with commas between them.
    pub except: Option<String>,
}

impl ProxyEnvironment {
    /// Returns the proxy for a site.
    #[must_use]
    pub fn proxy_of(&self, scheme: &str, host: &str) -> Option<&str> {
        let excepted = self.except.iter().flat_map(|list| list.split(',')).any(|entry| {
            let entry = entry.trim();
            let suffix = entry.strip_prefix('.').unwrap_or(entry);
            entry == "*"
                || (!suffix.is_empty()
                    && (host.eq_ignore_ascii_case(suffix)
                        || host
                            .to_ascii_lowercase()
                            .ends_with(&format!(".{}", suffix.to_ascii_lowercase()))))
        });
        if excepted {
            return None;
        }
        match scheme {
            "http" => self.http.as_deref(),
            "https" => self.https.as_deref(),
            _ => None,
        }
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
}

/// Returns the remote's mirrors, in order. Nothing is sent yet.
pub fn open_mirrors(
    config: &RemoteConfig,
    options: &OpenOptions,
) -> Result<Vec<Box<dyn Transport>>, RemoteError> {
    config
        .urls
        .iter()
        .map(|url| {
            match url
                .strip_prefix("file://")
                .or(url.starts_with('/').then_some(url))
            {
                Some(path) => match DirTransport::open(Path::new(path)) {
                    Ok(transport) => Ok(Box::new(transport) as Box<dyn Transport>),
                    Err(error) => Err(RemoteError::File {
                        path: path.into(),
                        reason: error.to_string(),
                    }),
                },
                None => http(url, config, options),
            }
        })
        .collect()
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

#[cfg(feature = "http")]
fn http(url: &str, config: &RemoteConfig, options: &OpenOptions) -> Result<Box<dyn Transport>, RemoteError> {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::transport::{ClientCertificate, Clock, HttpOptions, HttpTransport};

    use super::credentials::{authorization, read_file};

    let mut http = HttpOptions::default();
    http.ca = config.ca_file.as_deref().map(read_file).transpose()?;
    if let (Some(chain), Some(key)) = (&config.client_cert, &config.client_key) {
        http.client_certificate = Some(ClientCertificate {
            chain: read_file(chain)?,
            key: read_file(key)?,
        });
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    http.proxy = match config.proxy.as_deref() {
        Some("none") => None,
        Some(proxy) => Some(proxy.to_owned()),
        None => options.proxies.proxy_of(scheme, host).map(str::to_owned),
    };
    http.headers = config.headers.clone().into_iter().collect();
    http.authorization = authorization(config)?;
    let seconds = |value: Option<u64>, default| value.map_or(default, Duration::from_secs);
    http.connect_timeout = seconds(config.connect_timeout, http.connect_timeout);
    http.stall_timeout = seconds(config.stall_timeout, http.stall_timeout);
    http.request_timeout = config
        .request_timeout
        .map(Duration::from_secs)
        .or(http.request_timeout);
    let not_before = options.not_before;
    let clock = Clock::default();
    http.clock = Clock(Arc::new(move || (clock.0)().max(not_before)));
    Ok(Box::new(HttpTransport::new(url, http)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_excepted_from_proxies_by_name_and_suffix() {
        let proxies = ProxyEnvironment {
            http: Some("http://p:1".to_owned()),
            https: None,
            except: Some("localhost, .lan,example.org".to_owned()),
        };
        for (host, proxied) in [
            ("localhost", false),
            ("a.lan", false),
            ("lan", false),
            ("plan", true),
            ("www.EXAMPLE.org", false),
            ("example.com", true),
        ] {
            assert_eq!(proxies.proxy_of("http", host).is_some(), proxied, "{host}");
        }
        assert_eq!(proxies.proxy_of("https", "example.com"), None);
    }
}
