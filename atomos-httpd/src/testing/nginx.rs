//! nginx itself, with the configuration that the documentation gives.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The document that has the configuration.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/serving.md");

/// The line before the configuration.
const BEGIN: &str = "<!-- nginx: a test runs this block -->";

/// A running nginx that serves a directory. It ends when dropped.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

/// A line of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxLogLine {
    /// The method.
    pub method: String,
    /// The target as it was sent.
    pub target: String,
    /// The status.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub body_bytes: u64,
    /// All bytes that were sent, with the head.
    pub bytes: u64,
    /// The number of the connection.
    pub connection: u64,
    /// The header `Range` as it was sent.
    pub range: Option<String>,
}

/// Returns the configuration of `docs/serving.md`: a block `server`.
///
/// # Panics
///
/// If the document does not have it.
#[must_use]
pub fn documented_config() -> String {
    let text = std::fs::read_to_string(DOCUMENT).expect("docs/serving.md can be read");
    let (_, rest) = text
        .split_once(BEGIN)
        .expect("docs/serving.md marks the configuration");
    let block = rest.split("```").nth(1).expect("the configuration is fenced");
    let (_, config) = block.split_once('\n').expect("a fence is a line");
    config.to_owned()
}

impl Nginx {
    /// Serves the directory at `path` with the documented configuration. Returns `None`, and says so on standard error,
    /// where nginx is not installed.
    ///
    /// # Panics
    ///
    /// If nginx does not start.
    #[must_use]
    pub fn start(path: impl AsRef<Path>) -> Option<Self> {
        Self::start_with(path, &documented_config())
    }

    /// Serves the directory at `path` with a block `server`. In it, the arguments of `listen` and `root` are replaced.
    ///
    /// # Panics
    ///
    /// If nginx does not start.
    #[must_use]
    pub fn start_with(path: impl AsRef<Path>, server: &str) -> Option<Self> {
        let Some(program) = find() else {
            #[expect(clippy::print_stderr, reason = "a skipped test is to be seen")]
            {
                eprintln!("skipped: nginx is not installed");
            }
            return None;
        };
        let root = path.as_ref().canonicalize().expect("the directory exists");
        // The port may be taken between looking and starting.
        let mut attempts = (0..5).map(|_| launch(&program, &root, server));
        let started = attempts.find_map(Result::ok);
        Some(started.unwrap_or_else(|| {
            panic!(
                "nginx does not start: {}",
                launch(&program, &root, server).unwrap_err()
            )
        }))
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its address, such as `http://127.0.0.1:1234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests so far, in the order in which they were finished. A request is in the log a moment after
    /// its client has the answer; see [`Nginx::wait_for_requests`].
    ///
    /// # Panics
    ///
    /// If the log cannot be read.
    #[must_use]
    pub fn requests(&self) -> Vec<NginxLogLine> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).expect("nginx writes its log");
        // The last line may be in the making.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(parse_line).collect()
    }

    /// Waits, for at most five seconds, until there are `count` requests, and returns all.
    #[must_use]
    pub fn wait_for_requests(&self, count: usize) -> Vec<NginxLogLine> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let requests = self.requests();
            if requests.len() >= count || Instant::now() > end {
                return requests;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // An ordinary user's path seldom has it.
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join("nginx"))
        .find(|program| program.is_file())
}

fn launch(program: &Path, root: &Path, server: &str) -> Result<Nginx, String> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())?
        .port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let dir = tempfile::Builder::new()
        .prefix("atomos-nginx-")
        .tempdir()
        .map_err(|error| error.to_string())?;
    let config = config(dir.path(), root, address, server);
    let path = dir.path().join("nginx.conf");
    std::fs::write(&path, config).map_err(|error| error.to_string())?;
    let errors = dir.path().join("error.log");
    let mut child = Command::new(program)
        .arg("-p")
        .arg(dir.path())
        .arg("-e")
        .arg(&errors)
        .arg("-c")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() || Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(std::fs::read_to_string(&errors).unwrap_or_default());
        }
        // Another process may have got the port; nginx then ends.
        if TcpStream::connect(address).is_ok() && child.try_wait().is_ok_and(|status| status.is_none()) {
            return Ok(Nginx { child, address, dir });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn config(dir: &Path, root: &Path, address: SocketAddr, server: &str) -> String {
    let dir = dir.display();
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let server: Vec<String> = server
        .lines()
        .filter(|line| !line.trim_start().starts_with("listen [::]"))
        .map(|line| {
            let indent = &line[..line.len() - line.trim_start().len()];
            match line.split_whitespace().next() {
                Some("listen") => format!("{indent}listen {address};"),
                Some("root") => format!("{indent}root \"{}\";", root.display()),
                _ => line.to_owned(),
            }
        })
        .collect();
    format!(
        "{user}
daemon off;
master_process off;
pid {dir}/pid;
events {{ worker_connections 512; }}
http {{
    log_format atomos '$request_method $request_uri $status $body_bytes_sent $bytes_sent $connection $http_range';
    access_log {dir}/access.log atomos;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    gzip on;
    gzip_types *;
    gzip_min_length 1;
    sendfile on;
    tcp_nopush on;
{}
}}
",
        server.join("\n")
    )
}

fn parse_line(line: &str) -> Option<NginxLogLine> {
    let mut words = line.splitn(7, ' ');
    let mut next = || words.next();
    Some(NginxLogLine {
        method: next()?.to_owned(),
        target: next()?.to_owned(),
        status: next()?.parse().ok()?,
        body_bytes: next()?.parse().ok()?,
        bytes: next()?.parse().ok()?,
        connection: next()?.parse().ok()?,
        range: next().filter(|range| *range != "-").map(str::to_owned),
    })
}
