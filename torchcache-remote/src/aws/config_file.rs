//! The configuration files of Amazon's tools.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// A profile of the configuration files.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) name: String,
    /// The text of the file `config`; may be empty.
    config: String,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one; `None` where neither the variable nor a file exists.
    pub(super) fn of_env() -> Option<Profile> {
        let config = path("AWS_CONFIG_FILE", "config");
        let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let named = variable("AWS_PROFILE").and_then(|it| it.into_string().ok());
        let exists = [&config, &credentials]
            .into_iter()
            .flatten()
            .any(|it| it.exists());
        (named.is_some() || exists).then(|| Profile {
            name: named.unwrap_or_else(|| "default".to_owned()),
            config: (config.and_then(|it| fs::read_to_string(it).ok())).unwrap_or_default(),
        })
    }

    /// A setting in the section of this profile.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        let mut is_ours = false;
        for line in self.config.lines() {
            let line = line.trim_end();
            if let Some(section) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
                let section = section.trim();
                is_ours = match section.strip_prefix("profile ") {
                    Some(profile) => profile.trim() == self.name,
                    None => section == "default" && self.name == "default",
                };
            } else if is_ours
                // Settings of a setting are indented.
                && !line.starts_with([' ', '\t', '#', ';'])
                && let Some((key, value)) = line.split_once('=')
                && key.trim() == name
            {
                return Some(value.trim().to_owned());
            }
        }
        None
    }
}

/// A variable of the environment. One that is set to nothing counts as not set.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The file that a variable names, or the one in the home directory.
fn path(name: &str, default: &str) -> Option<PathBuf> {
    let named = variable(name).map(PathBuf::from);
    named.or_else(|| Some(env::home_dir()?.join(".aws").join(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_that_of_the_profile() {
        const CONFIG: &str = "# comment\n[default]\nregion = eu-west-1\n\n[profile team]\ns3 =\n  region = no\n\
             region=us-east-2 \nendpoint_url = http://host:9\n[sso-session team]\nregion = no\n";
        let profile = |name: &str| Profile {
            name: name.to_owned(),
            config: CONFIG.to_owned(),
        };
        assert_eq!(
            profile("default").setting("region"),
            Some("eu-west-1".into())
        );
        assert_eq!(profile("default").setting("endpoint_url"), None);
        assert_eq!(profile("team").setting("region"), Some("us-east-2".into()));
        assert_eq!(
            profile("team").setting("endpoint_url"),
            Some("http://host:9".into())
        );
        assert_eq!(profile("other").setting("region"), None);
    }
}
