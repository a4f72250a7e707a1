//! Other proxies, configured for speed: no log, no cache, no look-up, and kept connections if supported.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::net::{Address, Conn};
use crate::roles;

/// Time limit for a peer to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The other proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Forwards each connection to the origin without reading HTTP.
    Socat,
    /// The same on a Unix socket, as our proxy has it.
    SocatUnix,
    Squid,
    Tinyproxy,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Socat, Self::SocatUnix, Self::Squid, Self::Tinyproxy, Self::Nginx];

    fn program(self) -> &'static str {
        match self {
            Self::Socat | Self::SocatUnix => "socat",
            Self::Squid => "squid",
            Self::Tinyproxy => "tinyproxy",
            Self::Nginx => "nginx",
        }
    }

    /// The version that the program prints; empty if it is not installed.
    pub(crate) fn version(self) -> String {
        let flag = match self {
            Self::Socat | Self::SocatUnix => "-V",
            _ => "-v",
        };
        let Ok(output) = Command::new(self.program()).arg(flag).output() else { return String::new() };
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.to_lowercase().contains("version") || line.contains("tinyproxy"));
        line.unwrap_or_default().trim().split(" on ").next().unwrap_or_default().to_owned()
    }
}

/// A running peer; ended when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: Address,
}

impl Peer {
    /// Starts a peer with its files in `dir`; `origin` is the target of peers that cannot choose it per request.
    pub(crate) fn start(kind: Kind, dir: &Path, origin: SocketAddr) -> Result<Self> {
        fs::create_dir_all(dir)?;
        // If started as root, squid and nginx run as another user.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
        let at = roles::free_address()?;
        let mut address = Address::Tcp(at);
        let mut command = roles::tied(kind.program())?;
        let config = dir.join("conf");
        match kind {
            Kind::Socat => {
                command.arg("-b262144").arg(format!(
                    "TCP-LISTEN:{},bind={},fork,reuseaddr,nodelay",
                    at.port(),
                    at.ip()
                ));
                command.arg(format!("TCP:{origin},nodelay"));
            }
            Kind::SocatUnix => {
                let socket = dir.join("sock");
                command.arg("-b262144").arg(format!("UNIX-LISTEN:{},fork", socket.display()));
                command.arg(format!("TCP:{origin},nodelay"));
                address = Address::Unix(socket);
            }
            Kind::Squid => {
                fs::write(&config, squid(at, dir))?;
                command.arg("-N").arg("-f").arg(&config);
            }
            Kind::Tinyproxy => {
                fs::write(&config, tinyproxy(at))?;
                command.arg("-d").arg("-c").arg(&config);
            }
            Kind::Nginx => {
                fs::write(&config, nginx(at, origin, dir))?;
                command.arg("-p").arg(dir).arg("-c").arg(&config).arg("-g").arg("daemon off;");
            }
        }
        let said = dir.join("said");
        let log = fs::File::create(&said)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", kind.program()))?;
        let mut peer = Self { child, address };
        let began = Instant::now();
        while Conn::open(&peer.address).is_err() {
            let ended = peer.child.try_wait()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                bail!("{} does not start: {}", kind.program(), fs::read_to_string(&said)?.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("a peer did not end: {error}");
        }
    }
}

fn squid(at: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "http_port {at}\nhttp_access allow all\nvisible_hostname bench\n\
         cache deny all\ncache_mem 8 MB\naccess_log none\ncache_store_log none\ncache_log {dir}/cache.log\n\
         netdb_filename none\npid_filename none\ncoredump_dir {dir}\npinger_enable off\n\
         via off\nforwarded_for delete\nread_ahead_gap 256 KB\nmax_filedescriptors 16384\nshutdown_lifetime 0 seconds\n"
    )
}

fn tinyproxy(at: SocketAddr) -> String {
    format!(
        "Port {}\nListen {}\nMaxClients 1024\nTimeout 60\nDisableViaHeader Yes\nLogFile \"/dev/null\"\nLogLevel Critical\n",
        at.port(),
        at.ip()
    )
}

/// nginx forwards to hosts it has an `upstream` for, and keeps connections to those: an allow-list, in its words.
fn nginx(at: SocketAddr, origin: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
        .collect();
    format!(
        "worker_processes auto;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 4096; }}\n\
         http {{\n{temp}access_log off;\nkeepalive_requests 100000000;\ntcp_nodelay on;\n\
         upstream origin.test {{ server {origin}; keepalive 64; keepalive_requests 100000000; }}\n\
         server {{ listen {at};\nlocation / {{ proxy_pass http://$host$request_uri; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $http_host; }} }}\n}}\n"
    )
}
