//! Seeds of the store's objects.

use super::{Seed, seed};
use cairn_store_format::{
    FamilyId, Id, Location, ObjectName, PackId, PackKind, SessionId, StoreId,
    config::{ChunkSizes, Config},
    gc::{self, Condemned, Pardon, Report, SessionRecord, Spared},
    header::ObjectKind,
    index::{self, IndexedPack},
    keys::{EpochKeys, KeyRing, KeySlot, SlotKind},
    limits::BRANCH_FANOUT,
    manifest::{Manifest, PartRef},
    map::{Branch, Ref, Region, Run},
    pack::{Codec, Footer, FrameHeader, FrameKind, KEY_ROW_NONE, KeyRow, Slot, TRAILER_BYTES, Trailer, WrapScheme, checksum, encode_pack_header},
    point_log::{Action, LogEntry},
    register::{self, Body, DiskEntry, DiskMode, DiskTable, Parent, RegisterKind, Seen, Summary},
    small,
    tlv::TlvWriter,
};
use std::collections::BTreeMap;

const SESSION: SessionId = SessionId([0x01, 0xa3, 0x55, 0x6c, 0xe8, 0x00, 0x70, 1, 0x80, 2, 3, 4, 5, 6, 7, 8]);
const TIME_UNIX_MS: u64 = 1_795_219_200_000;

pub(super) fn all() -> Vec<Seed> {
    let mut out = vec![seed("store_config", "default", config()), seed("store_index", "two-packs", index_file())];
    out.extend(keys());
    out.extend(names());
    out.extend(packs());
    out.extend(registers());
    out.extend(small_objects());
    out.extend(collection());
    out.extend(maps());
    for (file, action, text) in [("tag", Action::Tag, "gold"), ("verified", Action::Verified, "good"), ("forget", Action::Forget, "")] {
        let entry = LogEntry { action, time_unix_ms: TIME_UNIX_MS, host: "host-1".into(), text: text.into() };
        out.push(seed("store_point_log", file, entry.encode()));
    }
    out.push(seed("store_manifest", "domain", manifest().encode()));
    out
}

fn pack_id(seq: u32, kind: PackKind) -> PackId {
    PackId { session: SESSION, seq, kind }
}

fn reference(n: u8) -> Ref {
    let at = Location { pack: pack_id(u32::from(n % 3), PackKind::Data), offset: 64 + (u32::from(n) << 8), stored_len: 200 };
    Ref { id: Id([n; 32]), at }
}

fn config() -> Vec<u8> {
    let config = Config {
        store: StoreId([1; 16]),
        family: FamilyId([2; 16]),
        created_unix_ms: TIME_UNIX_MS,
        encrypted: true,
        profile: "default".into(),
        chunks: ChunkSizes::DEFAULT,
        zstd_level: 1,
        public_key: [4; 32],
    };
    [config.encode_unsigned(), vec![9; 64]].concat()
}

fn keys() -> Vec<Seed> {
    let slot = |kind| KeySlot { kind, created_unix_ms: TIME_UNIX_MS, wrapped: vec![7; 72] }.encode();
    let epoch = |epoch| EpochKeys { epoch, data: [4; 32], meta: [5; 32] };
    let ring = KeyRing { id_key: [1; 32], cut_key: [2; 16], signing_seed: [3; 32], epochs: vec![epoch(1), epoch(2)] };
    vec![
        seed("store_keys", "passphrase", slot(SlotKind::Passphrase { memory_kib: 65536, passes: 3, lanes: 1, salt: [1; 16] })),
        seed("store_keys", "key-file", slot(SlotKind::KeyFile)),
        seed("store_keys", "recovery", slot(SlotKind::Recovery)),
        seed("store_keys", "ring", ring.encode()),
    ]
}

fn names() -> Vec<Seed> {
    let [config, _] = ObjectName::config(1);
    let [_, ring] = ObjectName::key_ring(2);
    let named = [
        ("register", ObjectName::register(&SESSION)),
        ("point-log", ObjectName::point_log(&SESSION, 7)),
        ("condemned", ObjectName::condemned(12)),
        ("config", config),
        ("ring", ring),
        ("meta-pack", ObjectName::pack(&pack_id(3, PackKind::Meta)).remove(1)),
    ];
    let mut out: Vec<Seed> = named.iter().map(|(file, name)| seed("store_names", file, name.file())).collect();
    out.push(seed("store_names", "path", named[1].1.as_str()));
    out
}

fn footer() -> Footer {
    let slot = |n: u8, kind, level| Slot { id: Id([n; 32]), offset: 64 + 70 * u32::from(n), stored_len: 14, kind, level };
    let row = |scheme, wrapped| KeyRow { scheme, epoch: 1, wrapped };
    Footer {
        slots: vec![slot(0, FrameKind::Chunk, 0), slot(1, FrameKind::Node, 1), slot(2, FrameKind::Manifest, 0)],
        key_rows: vec![row(WrapScheme::EpochData, vec![6; 72]), row(WrapScheme::Hpke, vec![8; 80])],
    }
}

fn frame(n: u8, kind: FrameKind, key_row: u16) -> Vec<u8> {
    let stored = [n; 14];
    let header = FrameHeader { id: Id([n; 32]), key_row, kind, level: 0, codec: Codec::Zstd, codec_level: 1, stored_len: 14, crc: checksum(&stored) };
    let mut out = Vec::new();
    header.encode(&mut out);
    [&out[..], &stored].concat()
}

fn packs() -> Vec<Seed> {
    let mut pack = encode_pack_header(&FamilyId([2; 16]), &pack_id(1, PackKind::Data));
    (0..3).for_each(|n| pack.extend(frame(n, FrameKind::Chunk, 0)));
    let (footer, offset) = (footer(), u32::try_from(pack.len()).expect("a small pack"));
    let bytes = footer.encode();
    pack.extend(&bytes);
    let len = u32::try_from(bytes.len()).expect("a small footer");
    Trailer { footer_offset: offset, footer_len: len, slots: 3, key_rows: 2, footer_crc: checksum(&bytes) }.encode(&mut pack);
    let end = pack[pack.len() - TRAILER_BYTES..].to_vec();
    vec![
        seed("store_pack", "whole", pack),
        seed("store_pack", "frame", frame(5, FrameKind::Blob, KEY_ROW_NONE)),
        seed("store_pack", "meta-header", encode_pack_header(&FamilyId([3; 16]), &pack_id(2, PackKind::Meta))),
        // The counts as the case wants them, then the footer alone.
        seed("store_pack", "footer", [&[3, 0, 2, 0][..], &bytes].concat()),
        seed("store_pack", "empty", empty_pack(&end)),
        // A plan: see the case.
        seed("store_pack", "plan", (200u8..=254).step_by(5).collect::<Vec<u8>>()),
        seed("store_pack", "plan-close", [1, 2, 3, 4, 5, 254]),
    ]
}

/// A pack that holds nothing: no writer makes one, every reader must bear one.
fn empty_pack(like: &[u8]) -> Vec<u8> {
    let mut out = encode_pack_header(&FamilyId([2; 16]), &pack_id(0, PackKind::Meta));
    let offset = u32::try_from(out.len()).expect("64");
    Trailer { footer_offset: offset, footer_len: 0, slots: 0, key_rows: 0, footer_crc: checksum(&[]) }.encode(&mut out);
    assert_eq!(out.len(), usize::try_from(offset).expect("64") + like.len());
    out
}

fn index_file() -> Vec<u8> {
    let pack = |seq, kind, footer| IndexedPack { pack: pack_id(seq, kind), size_bytes: 4096, sha256: [7; 32], footer };
    index::encode(&SESSION, &[pack(0, PackKind::Data, footer()), pack(1, PackKind::Meta, Footer::default())])
}

fn disk(n: u8, mode: DiskMode) -> DiskEntry {
    DiskEntry {
        target: format!("vd{}", char::from(b'a' + n)),
        size_bytes: 8 << 30,
        root: (n > 0).then(|| reference(n)),
        read_bytes: 1 << 20,
        changed_bytes: 2,
        stored_bytes: 3,
        mode,
        reason: if mode == DiskMode::Incremental { String::new() } else { "bitmap is gone".into() },
    }
}

fn registers() -> Vec<Seed> {
    let summary = Summary {
        name: "büro-1".into(),
        time_unix_ms: TIME_UNIX_MS,
        size_bytes: 16 << 30,
        quiesce: "filesystem".into(),
        disks: 3,
        tags: vec!["gold".into(), "monthly".into()],
        ..Summary::default()
    };
    let summary = summary.encode().expect("within the limits");
    let disks = vec![disk(0, DiskMode::Full), disk(1, DiskMode::Incremental), disk(2, DiskMode::Compare)];
    let table = register::encode_disks(&disks).expect("within the limits");
    let seen = Seen { count: 5, hash: [4; 32] };
    let body = |disks, manifest| {
        let parents = vec![Parent { session: SESSION, register_sha256: [2; 32] }];
        Body { parents, seen, disks, manifest }.encode().expect("within the limits")
    };
    let inline = body(DiskTable::Inline(disks), Some(reference(9)));
    let moved = body(DiskTable::Frame(reference(8)), None);
    let whole = |kind, summary: &[u8], body: &[u8]| register::encode(&SESSION, kind, summary, body).expect("within the limits");
    vec![
        seed("store_register", "manifest", whole(RegisterKind::Manifest, &summary, &inline)),
        seed("store_register", "fence", whole(RegisterKind::Fence, &[], &[])),
        seed("store_register", "summary", summary),
        seed("store_register", "body", inline),
        seed("store_register", "body-frame", moved),
        seed("store_register", "disks", table),
        seed("store_register", "reference", register::encode_ref(&reference(1))),
    ]
}

fn small_objects() -> Vec<Seed> {
    let kinds = [("session", ObjectKind::Session, 0), ("beat", ObjectKind::Beat, 3), ("log", ObjectKind::PointLog, 7), ("report", ObjectKind::Report, 0)];
    let bytes = |kind, number| small::encode(kind, &SESSION.0, number, b"sealed payload").expect("small");
    kinds.into_iter().map(|(file, kind, number)| seed("store_small", file, bytes(kind, number))).collect()
}

fn collection() -> Vec<Seed> {
    // Through the decoder: a record may gain fields that older ones do not have.
    let mut fields = TlvWriter::new();
    fields.bytes(1, &[3]).text(2, "host-1").u64(3, TIME_UNIX_MS).bytes(4, &SESSION.0);
    let fields = fields.finish();
    let record = SessionRecord::decode(&fields).expect("a session record's first fields");
    let packs = vec![pack_id(1, PackKind::Data), pack_id(2, PackKind::Meta)];
    let condemned = Condemned { host: "host-1".into(), process: "boot pid:[1] 7 8".into(), time_unix_ms: TIME_UNIX_MS, packs: packs.clone() };
    let (from, to) = (reference(1).at, reference(2).at);
    let report = Report { at: from, text: "seal".into(), host: "host-1".into(), time_unix_ms: TIME_UNIX_MS };
    vec![
        seed("store_gc", "session", record.encode()),
        seed("store_gc", "condemned", condemned.encode()),
        seed("store_gc", "pardon-all", Pardon { list_sha256: [1; 32], spared: Spared::All }.encode()),
        seed("store_gc", "pardon", Pardon { list_sha256: [2; 32], spared: Spared::Packs(packs.into_iter().collect()) }.encode()),
        seed("store_gc", "relocations", gc::encode_relocations(&[(from, to), (to, from)])),
        seed("store_gc", "report", report.encode()),
        seed("store_tlv", "record", fields),
    ]
}

fn maps() -> Vec<Seed> {
    let region = Region(vec![Run::Zero(3), Run::Chunk(32, reference(1)), Run::Chunk(8, reference(2)), Run::Zero(1), Run::Chunk(1, reference(1))]);
    let full = Region((0..32u8).map(|n| Run::Chunk(32, reference(n))).collect());
    let mut children = [None; BRANCH_FANOUT];
    (children[0], children[5], children[63]) = (Some(reference(1)), Some(reference(1)), Some(reference(2)));
    vec![
        seed("store_map", "region", region.encode()),
        seed("store_map", "region-full", full.encode()),
        // A plan: 2 zeros, 5 blocks, 1 zero, 128 blocks, 1 block.
        seed("store_map", "plan", [2, 0x80, 0, 5, 0, 1, 1, 0x80, 0, 128, 0, 2, 1, 0, 3]),
        seed("store_map", "branch", Branch(children).encode()),
        seed("store_map", "branch-full", Branch([Some(reference(3)); BRANCH_FANOUT]).encode()),
    ]
}

fn manifest() -> Manifest {
    Manifest {
        host: "host-1".into(),
        cairn_version: "0.1.0".into(),
        parts: BTreeMap::from([("domain-active.xml".into(), PartRef::new(&reference(1), 4000, false)), ("nvram".into(), PartRef::new(&reference(2), 7, true))]),
        warnings: vec!["the guest was not frozen".into()],
        source: serde_json::json!({"kind": "domain", "uuid": "6e5f", "disks": [{"target": "vda", "nodes": 2, "share": 0.5}]}),
    }
}
