//! The configuration files of Amazon's tools.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::variables::Variables;

/// A profile of the configuration files.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// As `AWS_PROFILE` says; `None` for the default one.
    pub(super) name: Option<String>,
    /// The text of the file `config`; may be empty.
    config: String,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one; `None` where neither the variable nor a file exists.
    pub(super) fn of_variables(variables: &Variables) -> Option<Profile> {
        let path = |name: &str, default: &str| {
            let named = variables.get(name).map(PathBuf::from);
            let home = || {
                variables
                    .get("HOME")
                    .map(PathBuf::from)
                    .or_else(env::home_dir)
            };
            named.or_else(|| Some(home()?.join(".aws").join(default)))
        };
        let config = path("AWS_CONFIG_FILE", "config");
        let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let named = variables.get("AWS_PROFILE").map(str::to_owned);
        let exists = [&config, &credentials]
            .into_iter()
            .flatten()
            .any(|it| it.exists());
        (named.is_some() || exists).then(|| Profile {
            name: named,
            config: (config.and_then(|it| fs::read_to_string(it).ok())).unwrap_or_default(),
        })
    }

    /// A setting in the section of this profile.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        let ours = self.name.as_deref().unwrap_or("default");
        let mut is_ours = false;
        for line in self.config.lines() {
            let line = line.trim_end();
            if let Some(section) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
                let section = section.trim();
                is_ours = match section.strip_prefix("profile ") {
                    Some(profile) => profile.trim() == ours,
                    None => section == "default" && ours == "default",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_that_of_the_profile() {
        const CONFIG: &str = "# comment\n[default]\nregion = eu-west-1\n\n[profile team]\ns3 =\n  region = no\n\
             region=us-east-2 \nendpoint_url = http://host:9\n[sso-session team]\nregion = no\n";
        let profile = |name: &str| Profile {
            name: Some(name.to_owned()),
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
        let unnamed = Profile {
            name: None,
            ..profile("")
        };
        assert_eq!(unnamed.setting("region"), Some("eu-west-1".into()));
    }
}
