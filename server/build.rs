//! Takes the files of Swagger UI that `/docs` needs out of the crate that contains them, still compressed: what an archive holds for
//! each is the content of a gzip file (RFC 1952) without its head and tail.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{Cursor, Read};
use std::path::PathBuf;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive};

const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];
/// Head of a gzip file: deflate, no name, no time, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for file in FILES {
        let name = format!("dist/{file}");
        let at = (0..archive.len()).find(|at| {
            let entry = archive.name_for_index(*at).and_then(Result::ok);
            entry.is_some_and(|entry| entry.split_once('/').is_some_and(|(_version, entry)| entry == name))
        });
        let mut entry = archive.by_index_raw(at.ok_or(format!("{name} is not in the archive"))?)?;
        if entry.compression() != CompressionMethod::DEFLATE {
            return Err(format!("{name} is not compressed by deflate").into());
        }
        let mut gzip = GZIP_HEAD.to_vec();
        entry.read_to_end(&mut gzip)?;
        gzip.extend(entry.crc32().to_le_bytes());
        gzip.extend(u32::try_from(entry.size())?.to_le_bytes());
        fs::write(out.join(format!("{file}.gz")), gzip)?;
    }
    Ok(())
}
