//! Writes the seeds into `fuzz/corpus`, over those that are there. Found files are left alone.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let seeds = cairn_fuzz_cases::seeds::all();
    for seed in &seeds {
        let folder = corpus.join(seed.case);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(&seed.file), &seed.bytes)?;
    }
    println!("{} seeds", seeds.len());
    Ok(())
}
