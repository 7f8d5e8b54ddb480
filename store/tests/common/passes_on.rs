//! What a platform over another one hands on as it is, so that each such platform shows only what it does otherwise.

/// `passes_on!(FIELD: METHOD...)` within an `impl Platform`.
macro_rules! passes_on {
    ($inner:ident: $($method:ident)*) => { $( passes_on!(@ $inner $method); )* };
    (@ $inner:ident location) => { fn location(&self) -> String { self.$inner.location() } };
    (@ $inner:ident create) => {
        fn create(
            &self,
            name: &cairn_store::format::ObjectName,
            bytes: &[u8],
            durability: cairn_store::platform::Durability,
        ) -> cairn_store::Result<cairn_store::platform::Created> {
            self.$inner.create(name, bytes, durability)
        }
    };
    (@ $inner:ident cover) => { fn cover(&self, name: &cairn_store::format::ObjectName) { self.$inner.cover(name) } };
    (@ $inner:ident barrier) => { fn barrier(&self) -> cairn_store::Result<()> { self.$inner.barrier() } };
    (@ $inner:ident read) => {
        fn read(&self, name: &cairn_store::format::ObjectName, max: usize) -> cairn_store::Result<Option<Vec<u8>>> { self.$inner.read(name, max) }
    };
    (@ $inner:ident read_at) => {
        fn read_at(&self, name: &cairn_store::format::ObjectName, offset: u64, len: usize) -> cairn_store::Result<Option<Vec<u8>>> {
            self.$inner.read_at(name, offset, len)
        }
    };
    (@ $inner:ident size) => { fn size(&self, name: &cairn_store::format::ObjectName) -> cairn_store::Result<Option<u64>> { self.$inner.size(name) } };
    (@ $inner:ident list) => { fn list(&self, dir: &str) -> cairn_store::Result<Vec<cairn_store::format::ObjectName>> { self.$inner.list(dir) } };
    (@ $inner:ident list_dirs) => { fn list_dirs(&self, dir: &str) -> cairn_store::Result<Vec<String>> { self.$inner.list_dirs(dir) } };
    (@ $inner:ident now_unix_ms) => { fn now_unix_ms(&self) -> u64 { self.$inner.now_unix_ms() } };
    (@ $inner:ident monotonic_ms) => { fn monotonic_ms(&self) -> u64 { self.$inner.monotonic_ms() } };
    (@ $inner:ident boot) => { fn boot(&self) -> String { self.$inner.boot() } };
    (@ $inner:ident sleep_ms) => { fn sleep_ms(&self, ms: u64) { self.$inner.sleep_ms(ms) } };
    (@ $inner:ident random) => { fn random(&self, out: &mut [u8]) { self.$inner.random(out) } };
    (@ $inner:ident process) => { fn process(&self) -> String { self.$inner.process() } };
    (@ $inner:ident is_gone) => { fn is_gone(&self, process: &str) -> bool { self.$inner.is_gone(process) } };
    (@ $inner:ident deleting) => { fn deleting(&self) -> Option<&dyn cairn_store::platform::Deleting> { self.$inner.deleting() } };
}

pub(crate) use passes_on;
