//! `atomos serve`

use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomos_httpd::{LogEntry, Observer, ServeError, Server, ServerOptions};
use clap::Args;
use libatomos::site;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;
use crate::signals;

/// How long answers may go on after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serve a published site by HTTP, for development
///
/// Prints the address, alone, on stdout, and serves the files of DIR until Ctrl-C: with ranges, tags, and the cache headers
/// that a site wants. Links that lead out of DIR are not followed, hidden files are not served, and nothing is listed. What
/// is published meanwhile is served at once.
///
/// Listens on loopback only, unless --listen says otherwise: there is no TLS and no access control. For everyday serving take
/// nginx; docs/serving.md has its configuration.
///
/// Ctrl-C lets running answers finish, for at most ten seconds; a second one does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos serve /srv/site
  atomos serve /srv/site --listen 127.0.0.1:0       any free port; the address says which
  atomos serve /srv/site --listen 0.0.0.0:8080 -v  to everybody who reaches this machine; each request on stderr")]
pub struct ServeArgs {
    /// The directory of the site
    dir: PathBuf,

    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Serialize)]
struct Serving {
    url: String,
    address: SocketAddr,
}

/// Runs the verb.
pub fn run(context: &Context, args: &ServeArgs) -> RunResult {
    let ui = *context.ui();
    let mut options = ServerOptions::default();
    options.listen = args.listen;
    options.observer = Observer::new(move |entry| ui.detail(LogLine(entry)));
    // Before there is something to stop.
    let mut stopped = signals::wake_up().map_err(|error| CliError::io("cannot handle signals", error))?;
    let server = Server::start(&args.dir, options).map_err(refused)?;
    let url = format!("{}/", server.url());
    let shown = text::escape_path(&args.dir);
    if !is_site(&args.dir) {
        let info = site::INFO;
        context.ui().warning(format_args!(
            "{shown} has no {info}: it is not a published site yet"
        ));
    }
    if !args.listen.ip().is_loopback() {
        context
            .ui()
            .warning("everybody who reaches this machine can read what is served");
    }
    context
        .ui()
        .status(format_args!("Serving {shown}; Ctrl-C ends it."));
    // Last: whoever reads the address begins to ask.
    context.ui().result(|out| -> Result<(), CliError> {
        if context.json() {
            let serving = Serving {
                url,
                address: server.address(),
            };
            // Of one line: whoever reads it does not wait for the end of the output.
            Ok(json::write_line(out, &serving)?)
        } else {
            Ok(writeln!(out, "{url}")?)
        }
    })?;
    wait(&mut stopped, context)?;
    if server.stop(PATIENCE) > 0 {
        context.ui().warning("answers that were being sent were cut off");
    }
    Ok(Outcome::Done)
}

/// Waits for Ctrl-C.
fn wait(stopped: &mut UnixStream, context: &Context) -> Result<(), CliError> {
    while !context.cancel().is_cancelled() {
        match stopped.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CliError::io("cannot wait for Ctrl-C", error)),
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

fn is_site(dir: &Path) -> bool {
    dir.join(site::INFO).is_file()
}

fn refused(error: ServeError) -> CliError {
    let what = text::escape_text(&error.to_string());
    match error {
        ServeError::Listen { source, .. } => {
            let taken = source.kind() == io::ErrorKind::AddrInUse;
            let error = CliError::io(what, source);
            if taken {
                error.with_hint("another program has the port; `--listen 127.0.0.1:0` takes one that is free")
            } else {
                error
            }
        }
        ServeError::Directory { source, .. } => CliError::io(what, source),
        _ => CliError::usage(what),
    }
}

/// A request, as a line of an access log.
struct LogLine<'a>(&'a LogEntry<'a>);

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogEntry {
            peer, status, bytes, ..
        } = self.0;
        write!(f, "{peer} ")?;
        match self.0.request {
            Some(request) => {
                let asked = format!("{} {}", request.method, request.target);
                f.write_str(&text::escape_text(&asked))?;
                if let Some(range) = request.header("range") {
                    write!(f, " [{}]", text::escape_text(range))?;
                }
            }
            None => f.write_str("no request that is understood")?,
        }
        write!(f, " {status} {bytes}")?;
        if !self.0.complete {
            f.write_str(" cut off")?;
        }
        Ok(())
    }
}
