//! What a client asks of a server, and how long it takes, over a line with a given round trip time.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use atomos_httpd::testing::{DelayProxy, Nginx};

use crate::bench::measure::time;

/// One pull.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pulled {
    /// How long the command took.
    pub seconds: f64,
    /// Requests in the server's log.
    pub requests: u64,
    /// All bytes that the server sent, heads included.
    pub bytes: u64,
}

/// nginx for a directory, and perhaps a proxy before it that lets every byte arrive later.
#[derive(Debug)]
pub struct Line {
    nginx: Nginx,
    proxy: Option<DelayProxy>,
}

impl Line {
    /// Serves `root`. The round trip time is one that is added to loopback's.
    ///
    /// # Errors
    /// If nginx is not installed.
    pub fn start(root: &Path, round_trip: Duration) -> Result<Self> {
        let Some(nginx) = Nginx::start(root) else {
            bail!("nginx is not installed (`cargo xtask test` installs it)");
        };
        let proxy = (!round_trip.is_zero()).then(|| DelayProxy::start(nginx.address(), round_trip / 2));
        Ok(Self { nginx, proxy })
    }

    /// What a client is to be told.
    pub fn url(&self) -> String {
        self.proxy
            .as_ref()
            .map_or_else(|| self.nginx.url(), DelayProxy::url)
    }

    /// Runs a client.
    ///
    /// # Errors
    /// If it fails.
    pub fn pull(&self, command: &mut Command) -> Result<Pulled> {
        let before = self.settled();
        let seconds = time(command)?.as_secs_f64();
        let after = self.settled();
        Ok(Pulled {
            seconds,
            requests: after.0 - before.0,
            bytes: after.1 - before.1,
        })
    }

    /// A request is in the log a moment after its client has the answer.
    fn settled(&self) -> (u64, u64) {
        let mut last = None;
        loop {
            let requests = self.nginx.requests();
            let now = (
                requests.len() as u64,
                requests.iter().map(|request| request.bytes).sum(),
            );
            if last == Some(now) {
                return now;
            }
            last = Some(now);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
