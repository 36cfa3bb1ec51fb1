//! Describes the machine that figures were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::release::Release;

/// One line: date, processor, memory, system, and versions.
pub(crate) fn describe(release: &Release) -> String {
    let cpu_info = read("/proc/cpuinfo");
    let processor = field(&cpu_info, "model name")
        .map(str::to_owned)
        .or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let virtual_machine = match field(&cpu_info, "flags") {
        Some(flags) if flags.split(' ').any(|flag| flag == "hypervisor") => ", virtual",
        _ => "",
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = memory(&read("/proc/meminfo")).unwrap_or_default();
    let date = output("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| "unknown date".to_owned());
    let system = output("uname", &["-sr"]).unwrap_or_default();
    let system = release_of(&system);
    let versions = versions(release);
    format!(
        "*Measured on {date}: {processor} ({cores} cores{virtual_machine}){memory}, {system}; \
         {versions}.*"
    )
}

/// The versions of what is measured: `rustc 1.95.0, torchcache 0.1.0, tch 0.26.0, libtorch 2.13.0`.
pub(crate) fn versions(release: &Release) -> String {
    let rustc = output("rustc", &["--version"]).unwrap_or_default();
    let rustc = rustc.split(' ').nth(1).unwrap_or("unknown");
    format!(
        "rustc {rustc}, torchcache {}, tch {}, libtorch {}",
        env!("CARGO_PKG_VERSION"),
        release.tch_exact,
        release.torch
    )
}

/// The target triple of rustc.
pub(crate) fn host() -> Option<String> {
    let text = output("rustc", &["-vV"])?;
    field(&text, "host").map(str::to_owned)
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// The output of a program, if it exists and succeeds.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The release of a kernel without the suffix of its builder.
fn release_of(system: &str) -> &str {
    system.split('-').next().unwrap_or(system)
}

/// A field of `/proc/cpuinfo`, `/proc/meminfo` or `rustc -vV`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(key, _)| key.trim() == name)?;
    Some(value.trim())
}

fn memory(mem_info: &str) -> Option<String> {
    let kilobytes: f64 = field(mem_info, "MemTotal")?
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(format!(", {:.0} GB", kilobytes * 1024.0 / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::DEFAULT;

    #[test]
    fn fields_are_found_whatever_their_alignment() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name"), Some("AMD EPYC"));
        assert_eq!(field(text, "flags"), Some("fpu hypervisor"));
        assert_eq!(field(text, "model"), None);
        let memory = memory("MemTotal:       24689348 kB\nMemFree: 1 kB\n");
        assert_eq!(memory.as_deref(), Some(", 25 GB"));
    }

    #[test]
    fn a_kernel_is_named_without_the_suffix_of_its_builder() {
        assert_eq!(release_of("Linux 6.18.44-fc-v669"), "Linux 6.18.44");
        assert_eq!(release_of("Darwin 23.1.0"), "Darwin 23.1.0");
    }

    #[test]
    fn the_description_is_one_line_with_the_versions() {
        let text = describe(DEFAULT);
        assert_eq!(text.lines().count(), 1);
        for part in [
            DEFAULT.tch_exact,
            DEFAULT.torch,
            "rustc 1.",
            "*Measured on 2",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }
}
