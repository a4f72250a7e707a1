//! Identifies what judges a deployment: a hash of the sources of scenarios and client, and of the contract. It is in every report, so that one can
//! see whether two reports were made by the same rules.
//!
//! And it puts the fixtures' program into the suite's, if `NAGAYA_FIXTURES_INSIDE` names one: what is handed out is then a single file.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// What is hashed, relative to the crate.
const JUDGES: [&str; 3] = ["src/scenarios", "src/client", "../docs/contract"];
/// Path of the fixtures' program, absolute.
const FIXTURES: &str = "NAGAYA_FIXTURES_INSIDE";

fn main() -> Result<(), Box<dyn Error>> {
    let mut hash = Fnv::new();
    for folder in JUDGES {
        println!("cargo::rerun-if-changed={folder}");
        let mut files = Vec::new();
        collect(Path::new(folder), &mut files)?;
        files.sort();
        for file in files {
            hash.add(file.to_string_lossy().as_bytes());
            hash.add(&fs::read(&file)?);
        }
    }
    println!("cargo::rustc-env=NAGAYA_SCENARIOS_VERSION={:016x}", hash.0);
    include_fixtures()
}

/// Leaves the program where the suite includes it from; an empty file if there is none, as in every build but a release's.
fn include_fixtures() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={FIXTURES}");
    let program = match env::var_os(FIXTURES).filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|error| format!("{FIXTURES}={}: {error}", path.display()))?
        }
        None => Vec::new(),
    };
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    Ok(fs::write(Path::new(&out).join("fixtures"), program)?)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// FNV-1a with 64 bits: the same on every machine and with every compiler.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        // The length, so that a byte that moves from one file to the next counts.
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
