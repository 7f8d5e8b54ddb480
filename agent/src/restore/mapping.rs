//! Options that say where disks go and what is elsewhere, as they are on the command line and in lists of domains.

use crate::{
    cli,
    failure::{Failure, Outcome},
};
use cairn_hypervisor::restore_map::Mapping;
use std::path::PathBuf;

/// Prefix of a volume that says that it is one.
const VOLUME_PREFIX: &str = "volume:";

/// Where one disk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file or device.
    Path(PathBuf),
    /// A volume of a pool, if there is such a pool; else a path, if it may be one.
    Volume {
        /// Pool.
        pool: String,
        /// Volume.
        volume: String,
        /// The same text taken for a path below the working directory; `None` where it can only be a volume.
        or_path: Option<PathBuf>,
    },
}

/// Maps of the options.
pub fn mapping(o: &cli::Elsewhere) -> Outcome<Mapping> {
    let paths = pairs("--map-path", &o.map_path)?;
    if let Some((old, new)) = paths.iter().find(|(old, new)| !old.starts_with('/') || !new.starts_with('/')) {
        return Err(Failure::usage(format!("--map-path {old}={new}: both are absolute paths, as in --map-path /srv/vm=/var/lib/libvirt/images")));
    }
    Ok(Mapping { paths, networks: pairs("--map-network", &o.map_network)?, machines: pairs("--map-machine", &o.map_machine)? })
}

fn pairs(option: &str, args: &[String]) -> Outcome<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    for a in args {
        let pair = a.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
        let (old, new) = pair.ok_or_else(|| Failure::usage(format!("{option} {a}: write OLD=NEW")))?;
        if out.iter().any(|o| o.0 == old) {
            return Err(Failure::usage(format!("{option} {old} occurs twice")));
        }
        out.push((old.to_owned(), new.to_owned()));
    }
    Ok(out)
}

/// `TARGET=PATH` or `TARGET=POOL/VOLUME`, split at the first `=`.
pub fn places(args: &[String]) -> Outcome<Vec<(String, Place)>> {
    let mut out: Vec<(String, Place)> = Vec::new();
    for a in args {
        let (target, to) = a
            .split_once('=')
            .filter(|(t, p)| !t.is_empty() && !p.is_empty())
            .ok_or_else(|| Failure::usage(format!("--disk {a}: write TARGET=PATH or TARGET=POOL/VOLUME, as in vda=/tmp/vda.raw")))?;
        if out.iter().any(|d| d.0 == target) {
            return Err(Failure::usage(format!("--disk {target} occurs twice")));
        }
        out.push((target.to_owned(), place(a, to)?));
    }
    Ok(out)
}

fn place(option: &str, to: &str) -> Outcome<Place> {
    let path = || std::path::absolute(to).map_err(|e| Failure::usage(format!("--disk {option}: {e}")));
    let volume =
        |text: &str| text.split_once('/').filter(|(p, v)| !p.is_empty() && !v.is_empty() && !v.contains('/')).map(|(p, v)| (p.to_owned(), v.to_owned()));
    if let Some(text) = to.strip_prefix(VOLUME_PREFIX) {
        let (pool, volume) = volume(text).ok_or_else(|| Failure::usage(format!("--disk {option}: write {VOLUME_PREFIX}POOL/VOLUME")))?;
        return Ok(Place::Volume { pool, volume, or_path: None });
    }
    match volume(to).filter(|_| !to.starts_with(['/', '.'])) {
        Some((pool, volume)) => Ok(Place::Volume { pool, volume, or_path: Some(path()?) }),
        None => path().map(Place::Path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn places_are_paths_or_volumes() {
        let of = |text: &str| places(&texts(&[text])).map(|mut p| p.remove(0).1).map_err(|f| f.code);
        assert_eq!(of("vda=/x/y"), Ok(Place::Path("/x/y".into())));
        assert!(matches!(of("vda=./x/y"), Ok(Place::Path(_))));
        assert!(matches!(of("vda=y.raw"), Ok(Place::Path(_))));
        assert!(matches!(of("vda=fast/web 1"), Ok(Place::Volume { pool, volume, or_path: Some(_) }) if pool == "fast" && volume == "web 1"));
        assert_eq!(of("vda=volume:p/v"), Ok(Place::Volume { pool: "p".into(), volume: "v".into(), or_path: None }));
        for wrong in ["vda", "vda=", "=x", "vda=volume:p", "vda=volume:p/v/w"] {
            assert_eq!(of(wrong), Err(crate::failure::USAGE), "{wrong}");
        }
        assert!(places(&texts(&["vda=/x", "vda=/y"])).is_err());
    }

    #[test]
    fn maps_are_pairs() {
        let of = |path: &[&str], network: &[&str]| mapping(&cli::Elsewhere { map_path: texts(path), map_network: texts(network), ..cli::Elsewhere::default() });
        assert_eq!(of(&["/a=/b"], &["lan=default"]).expect("pairs").networks, [("lan".to_owned(), "default".to_owned())]);
        for (path, network) in [(&["/a"][..], &[][..]), (&["a=/b"], &[]), (&["/a=b"], &[]), (&[], &["lan"]), (&[], &["a=b", "a=c"])] {
            assert_eq!(of(path, network).expect_err("wrong").code, crate::failure::USAGE);
        }
    }
}
