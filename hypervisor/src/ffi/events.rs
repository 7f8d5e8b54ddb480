//! libvirt's events: the loop that delivers them, and registrations.
//!
//! Invariants: each registration owns one heap cell with the sink, which libvirt frees by `free` once it calls back no more; callbacks only copy what they
//! are given and hand it on, so they never call libvirt's connection, never block and never panic.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

use virt::connect::Connect;
use virt_sys as sys;

use super::{LibvirtError, Named};

/// What libvirt called back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// `virConnectDomainEventCallback`: event and detail.
    Lifecycle(Whose, c_int, c_int),
    /// `virConnectDomainEventBlockJobCallback`, by target: type and status.
    BlockJob(Whose, String, c_int, c_int),
    /// `virConnectDomainEventAgentLifecycleCallback`: state.
    Agent(Whose, c_int),
    /// `virConnectCloseFunc`: reason.
    Closed(c_int),
}

/// The domain of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// UUID in its usual form.
    pub uuid: String,
    /// Name at that moment.
    pub name: String,
}

/// Where events go. Called on the loop's thread.
pub type Sink = Arc<dyn Fn(Raw) + Send + Sync>;

/// Starts the thread that delivers events; connections that are opened before that deliver none. Once a process.
///
/// # Errors
/// libvirt's, or the thread does not start.
pub fn start_loop() -> Result<(), LibvirtError> {
    static STARTED: OnceLock<Result<(), LibvirtError>> = OnceLock::new();
    STARTED.get_or_init(begin_loop).clone()
}

fn begin_loop() -> Result<(), LibvirtError> {
    const CALL: &str = "virEventRegisterDefaultImpl";
    virt::event::event_register_default_impl().named(CALL)?;
    let turn = || loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!(error = error.message(), "virEventRunDefaultImpl");
            // It fails for want of memory or descriptors; spinning would not bring them back.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    let failed = |e: std::io::Error| LibvirtError { call: CALL, code: sys::VIR_ERR_INTERNAL_ERROR, message: format!("no thread for events: {e}") };
    std::thread::Builder::new().name("libvirt-events".into()).spawn(turn).map(drop).map_err(failed)
}

/// A registered callback.
#[derive(Debug, Clone, Copy)]
pub struct Registration(c_int);

/// Registers for lifecycle, block jobs and agents of all domains, and for the connection's end.
///
/// # Errors
/// libvirt's.
pub fn register(connection: &Connect, sink: &Sink) -> Result<Vec<Registration>, LibvirtError> {
    // SAFETY: a callback of another event has another type than the generic one, by libvirt's own interface: it is called back with its own event's arguments.
    let lifecycle = unsafe { std::mem::transmute::<LifecycleFn, GenericFn>(on_lifecycle) };
    // SAFETY: as above.
    let block_job = unsafe { std::mem::transmute::<BlockJobFn, GenericFn>(on_block_job) };
    // SAFETY: as above.
    let agent = unsafe { std::mem::transmute::<AgentFn, GenericFn>(on_agent) };
    let all =
        [(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle), (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job), (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent)];
    let mut out = Vec::new();
    for (id, callback) in all {
        match register_one(connection, id, callback, sink) {
            Ok(registration) => out.push(registration),
            Err(error) => {
                deregister(connection, &out);
                return Err(error);
            }
        }
    }
    if let Err(error) = register_close(connection, sink) {
        deregister(connection, &out);
        return Err(error);
    }
    Ok(out)
}

/// Ends registrations; what is under way may still be delivered.
pub fn deregister(connection: &Connect, registrations: &[Registration]) {
    // SAFETY: the pointer is valid while `connection` is borrowed.
    let pointer = unsafe { connection.as_ptr() };
    for registration in registrations {
        // SAFETY: the number is one that libvirt gave for this connection. A connection that broke has none any more, and says so.
        let _ = unsafe { sys::virConnectDomainEventDeregisterAny(pointer, registration.0) };
    }
    // SAFETY: the pointer is valid; the callback is compared by address.
    let _ = unsafe { sys::virConnectUnregisterCloseCallback(pointer, Some(on_close)) };
}

fn register_one(connection: &Connect, id: sys::virDomainEventID, callback: GenericFn, sink: &Sink) -> Result<Registration, LibvirtError> {
    const CALL: &str = "virConnectDomainEventRegisterAny";
    let cell = Box::into_raw(Box::new(Arc::clone(sink))).cast::<c_void>();
    // SAFETY: the pointer is valid while `connection` is borrowed.
    let pointer = unsafe { connection.as_ptr() };
    let id = c_int::try_from(id).unwrap_or(c_int::MAX);
    // SAFETY: no domain means all; `cell` is what the callbacks and `free` expect, and libvirt's from here on if it takes it.
    let number = unsafe { sys::virConnectDomainEventRegisterAny(pointer, std::ptr::null_mut(), id, Some(callback), cell, Some(free)) };
    if number >= 0 {
        return Ok(Registration(number));
    }
    let error = LibvirtError::last(CALL);
    // SAFETY: libvirt has not taken it.
    unsafe { free(cell) };
    Err(error)
}

fn register_close(connection: &Connect, sink: &Sink) -> Result<(), LibvirtError> {
    let cell = Box::into_raw(Box::new(Arc::clone(sink))).cast::<c_void>();
    // SAFETY: the pointer is valid while `connection` is borrowed.
    let pointer = unsafe { connection.as_ptr() };
    // SAFETY: `cell` is what the callback and `free` expect, and libvirt's from here on if it takes it.
    if unsafe { sys::virConnectRegisterCloseCallback(pointer, Some(on_close), cell, Some(free)) } == 0 {
        return Ok(());
    }
    let error = LibvirtError::last("virConnectRegisterCloseCallback");
    // SAFETY: libvirt has not taken it.
    unsafe { free(cell) };
    Err(error)
}

type GenericFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type BlockJobFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, c_int, c_int, *mut c_void);
type AgentFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

unsafe extern "C" fn on_lifecycle(_: sys::virConnectPtr, domain: sys::virDomainPtr, event: c_int, detail: c_int, cell: *mut c_void) -> c_int {
    // SAFETY: libvirt calls with a valid domain and the cell of this registration.
    unsafe { deliver(cell, domain, |whose| Raw::Lifecycle(whose, event, detail)) };
    0
}

unsafe extern "C" fn on_block_job(_: sys::virConnectPtr, domain: sys::virDomainPtr, disk: *const c_char, kind: c_int, status: c_int, cell: *mut c_void) {
    // SAFETY: null, or a C string that lives during the call.
    let disk = unsafe { text(disk) };
    // SAFETY: libvirt calls with a valid domain and the cell of this registration.
    unsafe { deliver(cell, domain, |whose| Raw::BlockJob(whose, disk, kind, status)) };
}

unsafe extern "C" fn on_agent(_: sys::virConnectPtr, domain: sys::virDomainPtr, state: c_int, _reason: c_int, cell: *mut c_void) {
    // SAFETY: libvirt calls with a valid domain and the cell of this registration.
    unsafe { deliver(cell, domain, |whose| Raw::Agent(whose, state)) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, cell: *mut c_void) {
    // SAFETY: the cell of this registration, alive until libvirt frees it.
    let sink = unsafe { &*cell.cast::<Sink>() };
    sink(Raw::Closed(reason));
}

unsafe extern "C" fn free(cell: *mut c_void) {
    // SAFETY: made by `Box::into_raw` of just this type, and freed once.
    drop(unsafe { Box::from_raw(cell.cast::<Sink>()) });
}

/// # Safety
/// `cell` is of a registration of this module, `domain` valid during the call.
unsafe fn deliver(cell: *mut c_void, domain: sys::virDomainPtr, make: impl FnOnce(Whose) -> Raw) {
    // SAFETY: by this function's contract.
    let sink = unsafe { &*cell.cast::<Sink>() };
    let mut uuid: [c_char; sys::VIR_UUID_STRING_BUFLEN as usize] = [0; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: the buffer has the size that libvirt asks for; no round trip is made.
    if unsafe { sys::virDomainGetUUIDString(domain, uuid.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: zero-terminated by libvirt, and zeroed before.
    let uuid = unsafe { text(uuid.as_ptr()) };
    // SAFETY: the name lives as long as the domain's handle.
    let name = unsafe { sys::virDomainGetName(domain) };
    // SAFETY: null, or a C string that lives during the call.
    let name = unsafe { text(name) };
    sink(make(Whose { uuid, name }));
}

/// # Safety
/// Null, or a C string that lives during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
