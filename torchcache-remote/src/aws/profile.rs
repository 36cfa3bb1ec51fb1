//! Credentials of a profile, with single sign-on, as the program `aws` exports them.

use std::io::{self, ErrorKind, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use object_store::Error;
use object_store::aws::AwsCredential;
use object_store::client::CredentialProvider;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::failure::one_line;
use crate::variables::Variables;

/// How long the program may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Credentials are renewed so long before they expire.
const EARLY: Duration = Duration::from_secs(300);

/// For how long they are kept where no expiration is given, and for how long a failure is.
const KEPT: Duration = Duration::from_secs(3600);
const KEPT_FAILURE: Duration = Duration::from_secs(30);

/// What the program printed, or why it failed.
type Exported = Result<Arc<AwsCredential>, ExportError>;

/// Why there are no credentials of the profile.
#[derive(Clone, Debug, thiserror::Error)]
enum ExportError {
    /// The program is not installed.
    #[error("the program `aws` is not installed")]
    NoProgram,
    #[error("`aws configure export-credentials` failed: {0}")]
    Failed(String),
}

/// The credentials of a profile. Where the program `aws` is not installed, those of another provider.
#[derive(Debug)]
pub(super) struct ProfileCredentials {
    /// `None` for the one that the program takes by itself.
    profile: Option<String>,
    /// For the program.
    variables: Variables,
    cache: Arc<Mutex<Option<(Exported, Instant)>>>,
    other: Arc<dyn CredentialProvider<Credential = AwsCredential>>,
}

impl ProfileCredentials {
    pub(super) fn new(
        profile: Option<String>,
        variables: Variables,
        other: Arc<dyn CredentialProvider<Credential = AwsCredential>>,
    ) -> ProfileCredentials {
        ProfileCredentials {
            profile,
            variables,
            cache: Arc::default(),
            other,
        }
    }
}

#[async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let cache = self.cache.clone();
        let (profile, variables) = (self.profile.clone(), self.variables.clone());
        // In a task of its own: it ends, and its result is kept, where the request is aborted.
        let task = tokio::spawn(async move {
            let mut cached = cache.lock().await;
            if let Some((exported, until)) = &*cached
                && Instant::now() < *until
            {
                return Ok(exported.clone());
            }
            let exported =
                tokio::task::spawn_blocking(move || export(profile.as_deref(), &variables)).await?;
            let now = Instant::now();
            let (exported, kept) = match exported {
                Ok((credential, kept)) => (Ok(Arc::new(credential)), kept),
                Err(error) => (Err(error), KEPT_FAILURE),
            };
            *cached = Some((exported.clone(), now + kept));
            Ok::<_, Error>(exported)
        });
        match task.await?? {
            Ok(credential) => Ok(credential),
            Err(ExportError::NoProgram) => self.other.get_credential().await,
            Err(error) => Err(Error::Generic {
                store: "S3",
                source: Box::new(error),
            }),
        }
    }
}

/// What the program prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// The credentials of a profile, and for how long they are kept.
fn export(
    profile: Option<&str>,
    variables: &Variables,
) -> Result<(AwsCredential, Duration), ExportError> {
    let mut command = Command::new("aws");
    command.envs(variables.iter());
    command.args(["configure", "export-credentials", "--format", "process"]);
    // To name a profile that is not there, such as `default`, is an error.
    if let Some(profile) = profile {
        command.args(["--profile", profile]);
    }
    let printed = match output(&mut command) {
        Ok(printed) => printed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(ExportError::NoProgram),
        Err(error) => return Err(ExportError::Failed(one_line(&error.to_string()))),
    };
    let printed: Printed = serde_json::from_slice(&printed)
        .map_err(|_| ExportError::Failed("it printed no credentials".to_owned()))?;
    let expires = printed.expiration.as_deref();
    let kept = match expires.map(humantime::parse_rfc3339) {
        Some(Ok(expires)) => {
            let left = expires
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            left.saturating_sub(EARLY).max(KEPT_FAILURE)
        }
        // A time of another zone, or none.
        _ => KEPT,
    };
    let credential = AwsCredential {
        key_id: printed.access_key_id,
        secret_key: printed.secret_access_key,
        token: printed.session_token.filter(|it| !it.is_empty()),
    };
    Ok((credential, kept))
}

/// What a program prints. It is killed when it takes too long.
fn output(command: &mut Command) -> io::Result<Vec<u8>> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It prints less than a pipe holds.
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if begin.elapsed() > TIMEOUT => {
                child.kill()?;
                child.wait()?;
                let text = format!("it has not ended after {} s", TIMEOUT.as_secs());
                return Err(io::Error::other(text));
            }
            None => sleep(Duration::from_millis(10)),
        }
    };
    let (mut printed, mut errors) = (Vec::new(), String::new());
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut printed)?;
    }
    match (status.success(), child.stderr.take()) {
        (true, _) => Ok(printed),
        (false, stderr) => {
            if let Some(mut stderr) = stderr {
                stderr.read_to_string(&mut errors)?;
            }
            Err(io::Error::other(format!("{status}: {errors}")))
        }
    }
}
