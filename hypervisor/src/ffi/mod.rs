//! The libvirt calls that the `virt` crate has no safe wrapper for, and libvirt's errors as ours.
//!
//! Invariant: this folder is the only place of the workspace's libvirt code with `unsafe`. Every call checks the result before it touches what came
//! back, and copies strings before it frees them.

pub mod checkpoints;
pub mod events;

use std::ffi::{CStr, CString, c_char, c_void};

use thiserror::Error;
use virt::domain::Domain;
use virt::stream::Stream;
use virt_sys as sys;

use crate::translated::{NOT_RUNNING, says};

/// An error that libvirt reported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("libvirt: {call}: {message} (code {code})")]
pub struct LibvirtError {
    /// The call, by libvirt's name.
    pub call: &'static str,
    /// `virErrorNumber`.
    pub code: u32,
    /// libvirt's words.
    pub message: String,
}

impl LibvirtError {
    /// Wraps an error of the `virt` crate.
    #[must_use]
    pub fn new(call: &'static str, error: &virt::error::Error) -> Self {
        Self { call, code: error.code().to_raw(), message: error.message().to_owned() }
    }

    /// There is no such domain.
    #[must_use]
    pub fn is_no_domain(&self) -> bool {
        self.code == sys::VIR_ERR_NO_DOMAIN
    }

    /// The domain is not running (any more).
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        self.code == sys::VIR_ERR_OPERATION_INVALID && says(&self.message, NOT_RUNNING)
    }

    fn last(call: &'static str) -> Self {
        Self::new(call, &virt::error::Error::last_error())
    }

    fn argument(call: &'static str) -> Self {
        Self { call, code: sys::VIR_ERR_INVALID_ARG, message: "an argument holds a zero byte".to_owned() }
    }
}

/// Names the call in front of an error of the `virt` crate.
pub(crate) trait Named<T> {
    fn named(self, call: &'static str) -> Result<T, LibvirtError>;
}

impl<T> Named<T> for Result<T, virt::error::Error> {
    fn named(self, call: &'static str) -> Result<T, LibvirtError> {
        self.map_err(|error| LibvirtError::new(call, &error))
    }
}

/// Scratch images exist already (libvirt 6.0).
pub const BACKUP_REUSE_EXTERNAL: u32 = sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
/// A guest that shuts down during the backup is kept until the backup ends (libvirt 11.10).
pub const BACKUP_PRESERVE_SHUTDOWN: u32 = sys::VIR_DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN;

/// `virTypedParameterType` of an unsigned 64 bit number.
const TYPED_ULLONG: i32 = 4;

/// Starts a backup job, and in the same moment a checkpoint if one is described.
///
/// # Errors
/// libvirt's.
pub fn backup_begin(domain: &Domain, backup_xml: &str, checkpoint_xml: Option<&str>, flags: u32) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainBackupBegin";
    let argument = |text: &str| CString::new(text).map_err(|_| LibvirtError::argument(CALL));
    let (xml, checkpoint) = (argument(backup_xml)?, checkpoint_xml.map(argument).transpose()?);
    let checkpoint_pointer = checkpoint.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: both texts are C strings that outlive the call; libvirt copies them. A null checkpoint XML means "no checkpoint".
    let result = unsafe { sys::virDomainBackupBegin(pointer, xml.as_ptr(), checkpoint_pointer, flags) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// Description of the running backup job; `None` if there is none.
///
/// # Errors
/// libvirt's.
pub fn backup_xml(domain: &Domain) -> Result<Option<String>, LibvirtError> {
    const CALL: &str = "virDomainBackupGetXMLDesc";
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: the pointer is valid, the flags are none.
    let text = unsafe { sys::virDomainBackupGetXMLDesc(pointer, 0) };
    if text.is_null() {
        let error = LibvirtError::last(CALL);
        return if error.code == sys::VIR_ERR_NO_DOMAIN_BACKUP || error.is_not_running() { Ok(None) } else { Err(error) };
    }
    Ok(Some(take_string(text)))
}

/// Why libvirt calls a running domain tainted, in its words; of one that is off nothing.
///
/// # Errors
/// libvirt's.
pub fn taints(domain: &Domain) -> Result<Vec<String>, LibvirtError> {
    const CALL: &str = "virDomainGetMessages";
    let mut texts: *mut *mut c_char = std::ptr::null_mut();
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `texts` is a place for one pointer, which libvirt fills where it gives a count that is not negative.
    let count = unsafe { sys::virDomainGetMessages(pointer, &raw mut texts, sys::VIR_DOMAIN_MESSAGE_TAINTING) };
    let Ok(count) = usize::try_from(count) else { return Err(LibvirtError::last(CALL)) };
    let mut taken = Vec::new();
    for index in 0..count {
        // SAFETY: libvirt gave away an array of `count` pointers.
        let place = unsafe { texts.add(index) };
        // SAFETY: the place is within that array; each of its strings is taken once.
        taken.push(take_string(unsafe { *place }));
    }
    // SAFETY: the array is allocated with malloc and belongs to the caller; it is null where there was nothing to tell.
    unsafe { libc::free(texts.cast::<c_void>()) };
    Ok(taken)
}

/// Asks the running job to end. It ends later.
///
/// # Errors
/// libvirt's; among them that no job is running.
pub fn abort_job(domain: &Domain) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainAbortJob";
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: the pointer is valid.
    let result = unsafe { sys::virDomainAbortJob(pointer) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// Bandwidth in bytes a second, not MiB.
const PULL_BYTES: u32 = sys::VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES;

/// Starts to copy what a disk's image reads from its backing chain into the image itself. 0 is no limit.
///
/// # Errors
/// libvirt's.
pub fn block_pull(domain: &Domain, disk: &str, bytes_per_s: u64) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainBlockPull";
    let disk = CString::new(disk).map_err(|_| LibvirtError::argument(CALL))?;
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `disk` is a C string that outlives the call; libvirt copies it.
    let result = unsafe { sys::virDomainBlockPull(pointer, disk.as_ptr(), bytes_per_s, PULL_BYTES) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// Starts to copy a disk to an image that exists, described by a `<disk>` element. 0 is no limit.
///
/// # Errors
/// libvirt's.
pub fn block_copy(domain: &Domain, disk: &str, destination_xml: &str, bytes_per_s: u64, flags: u32) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainBlockCopy";
    let argument = |text: &str| CString::new(text).map_err(|_| LibvirtError::argument(CALL));
    let (disk, xml) = (argument(disk)?, argument(destination_xml)?);
    let mut field = [0; sys::VIR_TYPED_PARAM_FIELD_LENGTH as usize];
    for (to, from) in field.iter_mut().zip(sys::VIR_DOMAIN_BLOCK_COPY_BANDWIDTH.to_bytes_with_nul()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    let mut limit = sys::virTypedParameter { field, type_: TYPED_ULLONG, value: sys::_virTypedParameterValue { ul: bytes_per_s } };
    let count = i32::from(bytes_per_s > 0);
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: both texts are C strings and `limit` is one parameter of the kind it says; all outlive the call, which copies them.
    let result = unsafe { sys::virDomainBlockCopy(pointer, disk.as_ptr(), xml.as_ptr(), &raw mut limit, count, flags) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// Ends a disk's block job. It has ended on return, unless `flags` say otherwise.
///
/// # Errors
/// libvirt's; among them that there is none.
pub fn block_job_abort(domain: &Domain, disk: &str, flags: u32) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainBlockJobAbort";
    let disk = CString::new(disk).map_err(|_| LibvirtError::argument(CALL))?;
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `disk` is a C string that outlives the call.
    let result = unsafe { sys::virDomainBlockJobAbort(pointer, disk.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// A disk's block job as libvirt tells of it; `None` if there is none.
///
/// # Errors
/// libvirt's.
pub fn block_job_info(domain: &Domain, disk: &str) -> Result<Option<sys::virDomainBlockJobInfo>, LibvirtError> {
    const CALL: &str = "virDomainGetBlockJobInfo";
    let disk = CString::new(disk).map_err(|_| LibvirtError::argument(CALL))?;
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `disk` is a C string and `info` a structure of the size that libvirt fills; both outlive the call.
    let result = unsafe { sys::virDomainGetBlockJobInfo(pointer, disk.as_ptr(), &raw mut info, sys::VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES) };
    match result {
        0 => Ok(None),
        1 => Ok(Some(info)),
        _ => Err(LibvirtError::last(CALL)),
    }
}

/// Sets the limit of a disk's job, bytes a second; 0 is none.
///
/// # Errors
/// libvirt's; among them that there is no job.
pub fn block_job_set_speed(domain: &Domain, disk: &str, bytes_per_s: u64) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainBlockJobSetSpeed";
    let disk = CString::new(disk).map_err(|_| LibvirtError::argument(CALL))?;
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `disk` is a C string that outlives the call; libvirt copies it.
    let result = unsafe { sys::virDomainBlockJobSetSpeed(pointer, disk.as_ptr(), bytes_per_s, sys::VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

/// A domain's state and its reason, as libvirt numbers them. The `virt` crate (0.5) has it, and forgets to look at the result: of a libvirtd that is gone
/// it gives a state that nobody knows, and no error.
///
/// # Errors
/// libvirt's.
pub fn domain_state(domain: &Domain) -> Result<(sys::virDomainState, i32), LibvirtError> {
    const CALL: &str = "virDomainGetState";
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: both numbers are of the type that libvirt fills, and outlive the call.
    let result = unsafe { sys::virDomainGetState(pointer, &raw mut state, &raw mut reason, 0) };
    match (result, sys::virDomainState::try_from(state)) {
        (0, Ok(state)) => Ok((state, reason)),
        _ => Err(LibvirtError::last(CALL)),
    }
}

/// What a stream had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing just now (of a stream that does not wait).
    Nothing,
    /// No more will come.
    End,
}

/// "Would block", of `virStreamRecv`.
const WOULD_BLOCK: i32 = -2;

/// Takes what a stream has. Not in the `virt` crate, which makes an error of "nothing just now".
///
/// # Errors
/// libvirt's.
pub fn stream_receive(stream: &Stream, buffer: &mut [u8]) -> Result<Received, LibvirtError> {
    const CALL: &str = "virStreamRecv";
    // SAFETY: the stream's pointer is valid while `stream` is borrowed.
    let pointer = unsafe { stream.as_ptr() };
    // SAFETY: `buffer` is writable for as many bytes as are said, and outlives the call.
    let result = unsafe { sys::virStreamRecv(pointer, buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) };
    match result {
        WOULD_BLOCK => Ok(Received::Nothing),
        0 => Ok(Received::End),
        count => usize::try_from(count).map(|count| Received::Bytes(count.min(buffer.len()))).map_err(|_| LibvirtError::last(CALL)),
    }
}

/// Takes over a string that libvirt allocated.
fn take_string(text: *mut c_char) -> String {
    // SAFETY: callers pass a non-null, zero-terminated string that libvirt has given away.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: libvirt's strings are allocated with malloc and belong to the caller; nothing refers to it after the copy.
    unsafe { libc::free(text.cast::<c_void>()) };
    copy
}
