//! Pools through libvirt's own test driver: the true library and its pool code, without a device mapper, which not every machine has.

use cairn_hypervisor::Host;
use cairn_hypervisor::storage::{PoolKind, StorageError};
use virt::connect::Connect;
use virt::storage_pool::StoragePool;

const MIB: u64 = 1 << 20;

/// A host of the test driver with a volume group; each connection has a host of its own, kept by its file.
fn host_file(dir: &tempfile::TempDir) -> String {
    let pool = "<pool type='logical'><name>vg</name><source><name>vg</name></source><target><path>/dev/vg</path></target></pool>";
    let rbd = "<pool type='rbd'><name>ceph</name><source><name>x</name><host name='h'/></source></pool>";
    let path = dir.path().join("node.xml");
    std::fs::write(&path, format!("<node>{pool}{rbd}</node>")).expect("written");
    format!("test://{}", path.display())
}

#[test]
fn volumes_of_a_volume_group_are_made_and_removed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let host = Host::open(Some(&host_file(&dir))).expect("libvirt's test driver");
    let pool = host.pool("vg").expect("an active pool");
    assert_eq!(pool.kind, PoolKind::Devices);
    assert!(pool.available_bytes > 100 * MIB, "{}", pool.available_bytes);
    assert_eq!(pool.volume_path("web1-vda").expect("asked"), None);
    let path = pool.create_volume("web1-vda", 100 * MIB).expect("made");
    assert_eq!(pool.volume_path("web1-vda").expect("asked"), Some(path.clone()));
    assert_eq!(path.to_string_lossy(), "/dev/vg/web1-vda");
    assert!(pool.create_volume("web1-vda", MIB).is_err(), "the name is taken");
    pool.refresh().expect("refreshed");
    pool.delete_volume("web1-vda").expect("removed");
    assert_eq!(pool.volume_path("web1-vda").expect("asked"), None);
    assert!(pool.delete_volume("web1-vda").is_err(), "it is gone");
}

#[test]
fn pools_that_cannot_be_used_say_what_to_do() {
    let dir = tempfile::tempdir().expect("temp dir");
    let uri = host_file(&dir);
    let host = Host::open(Some(&uri)).expect("libvirt's test driver");
    for (name, word) in [("no-such", "virsh pool-list"), ("ceph", "rbd")] {
        match host.pool(name) {
            Err(StorageError::NoPool { why, .. }) => assert!(why.contains(word), "{why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // The default host of the test driver is shared by all connections of a process.
    let default = Connect::open(Some("test:///default")).expect("libvirt's test driver");
    let pool: StoragePool = default.lookup_storage_pool_by_name("default-pool").expect("it has one");
    pool.destroy().expect("stopped");
    match Host::open(Some("test:///default")).expect("the same").pool("default-pool") {
        Err(StorageError::NoPool { why, .. }) => assert!(why.contains("pool-start default-pool"), "{why}"),
        other => panic!("{other:?}"),
    }
}
