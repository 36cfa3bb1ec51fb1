//! Ceph's object gateway, with all of a cluster that it needs.

use std::env::consts::ARCH;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Program, free_ports, local, named, on_free_ports, succeed, wait_until_ready};
use crate::{READER, Server, WRITER};

/// Any identifier.
const CLUSTER: &str = "a7f64266-0894-4f1e-a635-d0aeaca0e993";

/// The programs that run all the time, with their arguments.
const MONITOR: [&str; 4] = ["ceph-mon", "-f", "-i", "a"];
const DISK: [&str; 4] = ["ceph-osd", "-f", "-i", "0"];
const GATEWAY: [&str; 4] = ["radosgw", "-f", "-n", "client.gateway"];

/// How [`WRITER`] is named to the interface of Swift. It makes buckets, since it takes requests without a signature.
const SWIFT: &str = "writer:swift";

/// A monitor, a disk that is a file, and a gateway that speaks S3.
#[derive(Debug)]
pub struct Ceph {
    /// Has the programs in `usr/bin`.
    root: PathBuf,
    dir: PathBuf,
    port: u16,
    running: Vec<Program>,
}

impl Ceph {
    /// Starts Ceph on a directory, which is made if it does not exist, and waits until it answers. `TORCHCACHE_CEPH`
    /// names the folder that has its programs in `usr/bin`: `/`, or one that packages of Debian were unpacked into.
    ///
    /// # Errors
    /// The variable is not set, a program does not start, or it does not answer.
    pub fn start(dir: &Path) -> io::Result<Ceph> {
        let root = named("TORCHCACHE_CEPH")?;
        let root = root.canonicalize().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", root.display()))
        })?;
        on_free_ports(|| {
            let [port, monitor] = free_ports()?;
            // The cluster remembers the port of its monitor.
            let dir = dir.join(monitor.to_string());
            fs::create_dir_all(&dir)?;
            let mut server = Ceph {
                root: root.clone(),
                dir: dir.canonicalize()?,
                port,
                running: Vec::new(),
            };
            server.make_cluster(monitor)?;
            server.start_programs(&[MONITOR])?;
            server.run("ceph-osd -i 0 --mkfs")?;
            server.start_programs(&[DISK])?;
            server.make_keys()?;
            server.start_programs(&[GATEWAY])?;
            server.wait_until_ready()?;
            Ok(server)
        })
    }

    fn make_cluster(&self, monitor: u16) -> io::Result<()> {
        fs::write(self.dir.join("ceph.conf"), self.config(monitor))?;
        fs::create_dir_all(self.dir.join("disk"))?;
        let address = format!("[v2:{}]", local(monitor));
        self.run(&format!(
            "monmaptool --create --fsid {CLUSTER} --addv a {address} monitors"
        ))?;
        self.run("osdmaptool --create-from-conf disks")?;
        self.run("ceph-mon -i a --mkfs --monmap monitors --osdmap disks")
    }

    /// The first step waits until the cluster works.
    fn make_keys(&self) -> io::Result<()> {
        let ((writer, secret), (reader, of_reader)) = (WRITER, READER);
        let make = format!("radosgw-admin user create --uid {writer} --display-name {writer}");
        self.run(&format!(
            "{make} --access-key {writer} --secret-key {secret}"
        ))?;
        let make = format!("radosgw-admin subuser create --uid {writer}");
        self.run(&format!(
            "{make} --subuser {SWIFT} --access full --key-type swift --secret-key {secret}"
        ))?;
        self.run(&format!(
            "{make} --subuser {writer}:{reader} --access read --key-type s3 --access-key {reader} --secret-key {of_reader}"
        ))
    }

    fn start_programs(&mut self, programs: &[[&str; 4]]) -> io::Result<()> {
        for [name, args @ ..] in programs {
            let mut command = self.command(&self.root.join("usr/bin").join(name));
            command.args(args);
            self.running
                .push(Program::start(&command, &self.log(name))?);
        }
        Ok(())
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let logs = [MONITOR, DISK, GATEWAY].map(|[name, ..]| self.log(name));
        wait_until_ready(&logs.each_ref().map(|it| &**it), || {
            succeed(self.port, "GET /", &[]).map(drop)
        })
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }

    /// Runs a program that ends: its name and arguments.
    fn run(&self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ');
        let program = words
            .next()
            .map(|name| self.root.join("usr/bin").join(name));
        // Where the test has ended, and so the cluster, it would wait for it.
        let mut command = self.command("timeout".as_ref());
        command.arg("120").args(program).args(words);
        let output = command.output()?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let errors = String::from_utf8_lossy(&output.stderr);
                Err(io::Error::other(format!(
                    "{line}: {}: {errors}",
                    output.status
                )))
            }
        }
    }

    /// A program in the directory of the cluster, whose settings it finds by a variable.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).env("CEPH_CONF", "ceph.conf");
        // Cargo sets it for libtorch.
        command.env_remove("LD_LIBRARY_PATH");
        if let Some(libraries) = self.libraries() {
            let ceph = libraries.join("ceph");
            let base = self.root.join(format!("lib/{ARCH}-linux-gnu"));
            let all = [libraries, ceph, base].map(|it| it.display().to_string());
            command.env("LD_LIBRARY_PATH", all.join(":"));
        }
        command
    }

    /// Where unpacked packages have their libraries. Ceph finds installed ones.
    fn libraries(&self) -> Option<PathBuf> {
        let is_unpacked = self.root != Path::new("/");
        is_unpacked.then(|| self.root.join(format!("usr/lib/{ARCH}-linux-gnu")))
    }

    fn config(&self, monitor: u16) -> String {
        let Ceph { dir, port, .. } = self;
        let dir = dir.display();
        let mut config = format!(
            "fsid = {CLUSTER}
mon host = v2:{monitor}
mon data = {dir}/monitor
osd data = {dir}/disk
run dir = {dir}
rgw frontends = beast endpoint={gateway} tcp_nodelay=1
{SETTINGS}",
            monitor = local(monitor),
            gateway = local(*port),
        );
        if let Some(libraries) = self.libraries() {
            let libraries = libraries.display();
            config += &format!(
                "plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes\n"
            );
        }
        format!("[global]\n{config}")
    }
}

/// Nothing is signed or encrypted, and nothing is stored twice. A full disk of this machine is not the test's concern.
const SETTINGS: &str = "\
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon allow pool size one = true
mon data avail crit = 0
mon cluster log to file = false
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore cache autotune = false
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
log file =
log to stderr = true
err to stderr = true
admin socket =
";

impl Server for Ceph {
    fn address(&self) -> SocketAddr {
        local(self.port)
    }

    fn create_bucket(&self, name: &str) -> io::Result<()> {
        let headers = [("X-Auth-User", SWIFT), ("X-Auth-Key", WRITER.1)];
        let answer = succeed(self.port, "GET /auth/v1.0", &headers)?;
        let mut lines = answer.lines();
        let token = lines.find_map(|line| line.strip_prefix("X-Auth-Token: "));
        let token = token.ok_or_else(|| io::Error::other(format!("no token in {answer}")))?;
        let line = format!("PUT /swift/v1/{name}");
        succeed(self.port, &line, &[("X-Auth-Token", token)]).map(drop)
    }

    /// All its programs at once.
    fn kill(&mut self) {
        self.running.clear();
    }

    fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.start_programs(&[MONITOR, DISK, GATEWAY])?;
        self.wait_until_ready()
    }
}
