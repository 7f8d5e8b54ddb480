//! Seeds of what peers say: NBD servers, guest agents, libvirt and its hook.

use super::{Seed, seed};
use cairn_hook::{Event, Operation, Uuid};
use cairn_nbd::codec::handshake::{
    self as hs, BlockSizes, Info, encode_go, encode_greeting, encode_info, encode_meta_context, encode_option, encode_option_reply, option, reply,
};
use cairn_nbd::codec::transmission::{
    ChunkHeader, Descriptor, Request, STATE_DIRTY, STATE_HOLE, STATE_ZERO, SimpleReply, chunk, command, encode_block_status, encode_error,
};

const SIZE_BYTES: u64 = 8192;
const CONTEXTS: [&str; 2] = ["base:allocation", "qemu:dirty-bitmap:b"];

pub(super) fn all() -> Vec<Seed> {
    let mut out = codec();
    out.extend(conversations());
    out.extend(wishes());
    out.extend(agents());
    out.extend(hooks());
    out
}

fn codec() -> Vec<Seed> {
    let queries = CONTEXTS.map(str::to_owned);
    let go = encode_go("vda", &[hs::info::BLOCK_SIZE]).expect("a short name");
    let request = Request { flags: 0, command: command::READ, cookie: 1, offset: 4096, length: 4096 };
    let descriptors = [Descriptor { length: 4096, status: STATE_DIRTY }, Descriptor { length: u32::MAX, status: 0 }];
    let messages: [(&str, Vec<u8>); 12] = [
        ("greeting", encode_greeting(hs::FLAG_FIXED_NEWSTYLE | hs::FLAG_NO_ZEROES).to_vec()),
        ("option", encode_option(option::GO, &go)),
        ("go", go),
        ("option-reply", encode_option_reply(option::GO, reply::INFO, &export())),
        ("meta-context", encode_meta_context("vda", &queries).expect("short names")),
        ("context-reply", context_reply(10, CONTEXTS[0])),
        ("export", export()),
        ("block-size", encode_info(Info::BlockSize(BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 25 }))),
        ("request", request.encode().to_vec()),
        ("simple-reply", SimpleReply { error: 5, cookie: 1 }.encode()[4..].to_vec()),
        ("block-status", encode_block_status(10, &descriptors)),
        ("error", encode_error(5, "gone").expect("a short message")),
    ];
    let mut out: Vec<Seed> = messages.into_iter().map(|(file, bytes)| seed("nbd_codec", file, bytes)).collect();
    let header = ChunkHeader { flags: 1, kind: chunk::OFFSET_HOLE, cookie: 1, length: 12 };
    out.push(seed("nbd_codec", "chunk", &header.encode()[4..]));
    out
}

fn export() -> Vec<u8> {
    encode_info(Info::Export { size_bytes: SIZE_BYTES, flags: hs::export_flag::HAS_FLAGS | hs::export_flag::SEND_FLUSH })
}

fn context_reply(id: u32, name: &str) -> Vec<u8> {
    [&id.to_be_bytes()[..], name.as_bytes()].concat()
}

fn piece(cookie: u64, done: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&ChunkHeader { flags: u16::from(done), kind, cookie, length }.encode()[..], payload].concat()
}

/// All that clients say to `nbd_server`: flags, options, requests.
fn wishes() -> Vec<Seed> {
    let ask = |option: u32, payload: &[u8]| encode_option(option, payload);
    let go = encode_go("e", &[hs::info::NAME, hs::info::DESCRIPTION, hs::info::BLOCK_SIZE]).expect("a short name");
    let contexts = encode_meta_context("e", &["base:allocation".to_owned()]).expect("short names");
    let request = |command: u16, flags: u16, cookie: u64, offset: u64, length: u32| Request { flags, command, cookie, offset, length }.encode().to_vec();
    let modern = [0, 0, 0, 3];
    let chosen = [ask(option::STRUCTURED_REPLY, &[]), ask(option::SET_META_CONTEXT, &contexts), ask(option::GO, &go)].concat();
    let reads = [request(command::READ, 0, 1, 0, 8192), request(command::READ, 4, 2, 4096, 100), request(command::READ, 0, 3, 8192, 1)].concat();
    let status = [request(command::BLOCK_STATUS, 0, 4, 0, 8192), request(command::BLOCK_STATUS, 8, 5, 1, 8191)].concat();
    let write = [request(command::WRITE, 0, 6, 0, 5), b"hello".to_vec(), request(command::TRIM, 0, 7, 0, 1), request(command::CACHE, 0, 8, 0, 9)].concat();
    let end = [request(command::FLUSH, 0, 9, 0, 0), request(command::DISC, 0, 10, 0, 0)].concat();
    let questions = [ask(option::LIST, &[]), ask(option::INFO, &go), ask(option::LIST_META_CONTEXT, &contexts), ask(option::STARTTLS, &[])].concat();
    vec![
        seed("nbd_server", "modern", [&modern[..], &chosen, &reads, &status, &write, &end].concat()),
        seed("nbd_server", "questions", [&modern[..], &ask(option::STRUCTURED_REPLY, &[]), &questions, &ask(99, b"x"), &ask(option::ABORT, &[])].concat()),
        seed("nbd_server", "old", [&[0, 0, 0, 1][..], &ask(option::EXPORT_NAME, b"e"), &reads, &end].concat()),
        seed("nbd_server", "simple", [&modern[..], &ask(option::GO, &go), &reads, &write].concat()),
    ]
}

/// Whole conversations of `nbd_client`: its wish, then all that the server says.
fn conversations() -> Vec<Seed> {
    let greeting = encode_greeting(hs::FLAG_FIXED_NEWSTYLE | hs::FLAG_NO_ZEROES).to_vec();
    let ack = |option| encode_option_reply(option, reply::ACK, &[]);
    let structured = ack(option::STRUCTURED_REPLY);
    let sizes = encode_info(Info::BlockSize(BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 25 }));
    let info = |payload: &[u8]| encode_option_reply(option::GO, reply::INFO, payload);
    let go = [info(&export()), info(&sizes), ack(option::GO)].concat();
    let offers = |option| -> Vec<u8> {
        let each = (10..).zip(CONTEXTS).flat_map(|(id, name)| encode_option_reply(option, reply::META_CONTEXT, &context_reply(id, name)));
        each.chain(ack(option)).collect()
    };
    let status = |id, status| encode_block_status(id, &[Descriptor { length: 4096, status }, Descriptor { length: 65536, status: 0 }]);
    let statuses = [piece(1, false, chunk::BLOCK_STATUS, &status(10, STATE_HOLE | STATE_ZERO)), piece(1, true, chunk::BLOCK_STATUS, &status(11, STATE_DIRTY))];
    // The client wants the last 5,000 bytes and reads whole blocks of 512: 5,120 from 3,072 on.
    let data = piece(2, false, chunk::OFFSET_DATA, &[&3072u64.to_be_bytes()[..], &[7; 1024]].concat());
    let hole = piece(2, true, chunk::OFFSET_HOLE, &[&4096u64.to_be_bytes()[..], &4096u32.to_be_bytes()].concat());
    let failed = piece(1, true, chunk::ERROR, &encode_error(5, "gone").expect("a short message"));
    let refused = encode_option_reply(option::STRUCTURED_REPLY, reply::ERR_UNSUP, b"no");
    let plain = [info(&export()), ack(option::GO)].concat();
    let simple = [&SimpleReply { error: 0, cookie: 1 }.encode()[..], &[7; 5000]].concat();
    let list = [encode_option_reply(option::LIST, reply::SERVER, &[&3u32.to_be_bytes()[..], b"vda"].concat()), ack(option::LIST)].concat();
    let opened = [greeting.clone(), structured.clone(), offers(option::SET_META_CONTEXT), go.clone()].concat();
    let talk = |wish: u8, said: &[&[u8]]| [&[wish][..], &said.concat()].concat();
    vec![
        seed("nbd_client", "capture", talk(0, &[&opened, &statuses.concat(), &data, &hole])),
        seed("nbd_client", "status-fails", talk(0, &[&opened, &failed])),
        seed("nbd_client", "old-server", talk(1, &[&greeting, &refused, &plain, &simple])),
        seed("nbd_client", "no-contexts", talk(1, &[&greeting, &structured, &go, &piece(1, true, chunk::NONE, &[])])),
        seed("nbd_client", "exports", talk(2, &[&greeting, &list])),
        seed("nbd_client", "contexts", talk(3, &[&greeting, &structured, &offers(option::LIST_META_CONTEXT)])),
    ]
}

/// Answers in the order of the questions, a line each. They are the agent's own words: nothing of ours writes them.
fn agents() -> Vec<Seed> {
    let commands: Vec<String> = ["guest-get-fsinfo", "guest-get-osinfo", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"]
        .iter()
        .map(|name| format!(r#"{{"name":"{name}","enabled":true,"success-response":true}}"#))
        .collect();
    let info = format!(r#"{{"return":{{"version":"8.2.0","supported_commands":[{}]}}}}"#, commands.join(","));
    let filesystems = r#"{"return":[{"name":"vda1","mountpoint":"/","type":"ext4","disk":[]},{"name":"vdb","mountpoint":"/mnt/ä\n","type":"xfs"}]}"#;
    let linux = r#"{"return":{"id":"debian","kernel-release":"6.1"}}"#;
    let windows = r#"{"return":{"id":"mswindows"}}"#;
    let refused = r#"{"error":{"class":"GenericError","desc":"no \u001b[31m"}}"#;
    let quiet = "{\"return\":2}\n{\"return\":\"frozen\"}\n{\"return\":2}\n";
    vec![
        seed("guest_agent", "linux", format!("{info}\n{filesystems}\n{linux}\n{quiet}")),
        seed("guest_agent", "windows", format!("{info}\n{filesystems}\n{windows}\n{refused}\n{refused}\n{quiet}")),
        seed("guest_agent", "hooks", "cairn-quiesce 1\nfreeze 8\nhook 10-a ok\nhook 20-b skipped\nafter 10-a ok\nend 8\n"),
        seed("guest_agent", "status", "{\"return\":\"thawed\"}"),
        seed("guest_agent", "thaw", "{\"return\":1}"),
    ]
}

/// Records by our own encoder; the XML is libvirt's.
fn hooks() -> Vec<Seed> {
    let event = Event {
        domain: "web 1 %".to_owned(),
        uuid: Some(Uuid::of([0x6b; 16])),
        operation: Operation::Stopped,
        sub_operation: "end".to_owned(),
        extra: "-".to_owned(),
        time_unix_ms: 1_763_700_000_000,
        stamp_ns: 86_400_000_000_000,
        boot: Some(Uuid::of([1; 16])),
        cut: false,
    };
    let other = Event { domain: "\u{e4}".repeat(600), uuid: None, operation: Operation::Other("melt".to_owned()), boot: None, ..event.clone() };
    let xml = "<domain type='kvm' id='1'>\n  <name>web &lt;1&gt;</name>\n  <uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>\n  <title>x</title>\n</domain>\n";
    let odd = "<?xml version='1.0'?><!-- <uuid> --><domain a='>'><t><![CDATA[<uuid>]]></t><m><uuid>x</uuid></m><e/><uuid>\n6BA7B810-9DAD-11D1-80B4-00C04FD430C8 </uuid>";
    vec![seed("hook", "record", event.encode()), seed("hook", "record-cut", other.encode()), seed("hook", "xml", xml), seed("hook", "xml-odd", odd)]
}
