//! Azurite, an emulator of Azure Blob Storage.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::process::{
    Program, free_ports, local, named, on_free_ports, request, succeed, wait_until_ready,
};
use crate::{READER, Server, WRITER};

/// How long Azurite keeps the names of objects in memory alone.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Prints the signature of a text.
const SIGN: &str = r#"const [, key, text] = process.argv;
const hmac = require("crypto").createHmac("sha256", Buffer.from(key, "base64"));
process.stdout.write(encodeURIComponent(hmac.update(text).digest("base64")));"#;

/// Azurite, with an account that has the name of [`WRITER`]. [`READER`] has a token of it. Needs `node` in `PATH`.
#[derive(Debug)]
pub struct Azurite {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    writer_token: String,
    reader_token: String,
    running: Option<Program>,
}

impl Azurite {
    /// Starts the program `azurite-blob` that `TORCHCACHE_AZURITE` names on a directory, which is made if it does not
    /// exist, and waits until it answers.
    ///
    /// # Errors
    /// The variable is not set, the program does not start, or it does not answer.
    pub fn start(dir: &Path) -> io::Result<Azurite> {
        let program = named("TORCHCACHE_AZURITE")?;
        fs::create_dir_all(dir)?;
        on_free_ports(|| {
            let [port] = free_ports()?;
            let mut server = Azurite {
                program: program.clone(),
                dir: dir.canonicalize()?,
                port,
                writer_token: token("rwdlc")?,
                reader_token: token("rl")?,
                running: None,
            };
            server.restart()?;
            Ok(server)
        })
    }
}

impl Server for Azurite {
    fn address(&self) -> SocketAddr {
        local(self.port)
    }

    fn scheme(&self) -> &'static str {
        "az"
    }

    fn variables(&self, endpoint: &str, key: (&str, &str)) -> Vec<(String, String)> {
        let (account, credentials) = match key {
            READER => (
                WRITER.0,
                ("AZURE_STORAGE_SAS_TOKEN", self.reader_token.clone()),
            ),
            (name, secret) => (name, ("AZURE_STORAGE_ACCOUNT_KEY", account_key(secret))),
        };
        [
            ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{account}")),
            ("AZURE_STORAGE_ACCOUNT_NAME", account.to_owned()),
            credentials,
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn create_bucket(&self, name: &str) -> io::Result<()> {
        let (account, token) = (WRITER.0, &self.writer_token);
        let line = format!("PUT /{account}/{name}?restype=container&{token}");
        match request(self.port, &line, &[], "")? {
            (201 | 409, _) => Ok(()),
            (_, text) => Err(io::Error::other(text)),
        }
    }

    /// Waits until it has saved the names of its objects, which Azure itself does before it answers.
    fn kill(&mut self) {
        if self.running.is_some() {
            sleep(SAVE_INTERVAL + Duration::from_secs(1));
        }
        self.running = None;
    }

    fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut command = Command::new(&self.program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort"]);
        command.arg(self.port.to_string()).arg("--location");
        command.arg(self.dir.join("data"));
        command.args(["--silent", "--disableTelemetry"]);
        let key = account_key(WRITER.1);
        command.env("AZURITE_ACCOUNTS", format!("{}:{key}", WRITER.0));
        let log = self.dir.join("log");
        self.running = Some(Program::start(&command, &log)?);
        wait_until_ready(&[&log], || {
            let line = format!("GET /{}?comp=list&{}", WRITER.0, self.writer_token);
            succeed(self.port, &line, &[]).map(drop)
        })
    }
}

/// A key of an account is base64.
fn account_key(secret: &str) -> String {
    let letters = secret.chars().filter(char::is_ascii_alphanumeric);
    let mut key: String = letters.collect();
    key.truncate(key.len() / 4 * 4);
    key
}

/// A token of the account, a shared access signature, with these permissions.
fn token(permissions: &str) -> io::Result<String> {
    const EXPIRY: &str = "2099-01-01T00:00:00Z";
    const VERSION: &str = "2019-12-12";
    // Start, addresses and protocols are empty.
    let account = WRITER.0;
    let text = format!("{account}\n{permissions}\nb\nsco\n\n{EXPIRY}\n\n\n{VERSION}\n");
    let mut node = Command::new("node");
    node.args(["-e", SIGN, &account_key(WRITER.1), &text]);
    let signed = node
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start node: {error}")))?;
    if !signed.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&signed.stderr)));
    }
    let signature = String::from_utf8_lossy(&signed.stdout);
    Ok(format!(
        "sv={VERSION}&ss=b&srt=sco&sp={permissions}&se={EXPIRY}&sig={signature}"
    ))
}
