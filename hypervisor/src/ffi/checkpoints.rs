//! libvirt's checkpoints: list, describe, define anew, delete. The `virt` crate has none of it.
//!
//! Invariant: a checkpoint's handle is freed where it was taken; callers have names and texts only.

use std::ffi::{CStr, CString, c_void};

use virt::domain::Domain;
use virt_sys as sys;

use super::{LibvirtError, take_string};

/// Whether libvirt looks for the bitmaps of a checkpoint that is defined anew. The domain must run for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every bitmap must be there, sound and recording.
    Validate,
    /// The description is believed.
    No,
}

/// What a deletion takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// libvirt's description and the bitmaps; of a running domain only.
    Whole,
    /// The description only.
    Metadata,
}

/// A checkpoint's handle.
struct Handle(sys::virDomainCheckpointPtr);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made from a pointer that libvirt gave away and that is not null; freed once.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

impl LibvirtError {
    /// There is no such checkpoint.
    #[must_use]
    pub fn is_no_checkpoint(&self) -> bool {
        self.code == sys::VIR_ERR_NO_DOMAIN_CHECKPOINT
    }
}

/// Names of all checkpoints of a domain.
///
/// # Errors
/// libvirt's.
pub fn names(domain: &Domain) -> Result<Vec<String>, LibvirtError> {
    const CALL: &str = "virDomainListAllCheckpoints";
    let mut all: *mut sys::virDomainCheckpointPtr = std::ptr::null_mut();
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `all` is a place for one pointer, which libvirt fills where it gives a count that is not negative.
    let count = unsafe { sys::virDomainListAllCheckpoints(pointer, &raw mut all, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(LibvirtError::last(CALL)) };
    let mut names = Vec::new();
    for index in 0..count {
        // SAFETY: libvirt gave away an array of `count` pointers.
        let place = unsafe { all.add(index) };
        // SAFETY: the place is within that array; each of its handles is taken once.
        let handle = Handle(unsafe { *place });
        // SAFETY: the name lives as long as the handle.
        let name = unsafe { sys::virDomainCheckpointGetName(handle.0) };
        if !name.is_null() {
            // SAFETY: a C string, copied while the handle lives.
            names.push(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        }
    }
    // SAFETY: the array is allocated with malloc and belongs to the caller; it is null where there was nothing to list.
    unsafe { libc::free(all.cast::<c_void>()) };
    Ok(names)
}

/// libvirt's description of a checkpoint, the domain's as it was then among it; `None` if there is no such checkpoint.
///
/// # Errors
/// libvirt's.
pub fn xml(domain: &Domain, name: &str) -> Result<Option<String>, LibvirtError> {
    const CALL: &str = "virDomainCheckpointGetXMLDesc";
    let Some(handle) = look_up(domain, name)? else { return Ok(None) };
    // SAFETY: the handle is valid, the flags are none.
    let text = unsafe { sys::virDomainCheckpointGetXMLDesc(handle.0, 0) };
    if text.is_null() { Err(LibvirtError::last(CALL)) } else { Ok(Some(take_string(text))) }
}

/// Tells libvirt of a checkpoint whose bitmaps are there already, or tells it anew. Nothing is done to images.
///
/// # Errors
/// libvirt's; with [`Check::Validate`] among them that a bitmap is missing or not sound.
pub fn define(domain: &Domain, xml: &str, check: Check) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainCheckpointCreateXML";
    let xml = CString::new(xml).map_err(|_| LibvirtError::argument(CALL))?;
    let validate = if check == Check::Validate { sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE } else { 0 };
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `xml` is a C string that outlives the call; libvirt copies it.
    let made = unsafe { sys::virDomainCheckpointCreateXML(pointer, xml.as_ptr(), sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | validate) };
    if made.is_null() {
        return Err(LibvirtError::last(CALL));
    }
    drop(Handle(made));
    Ok(())
}

/// Deletes a checkpoint; one that is not there is deleted already.
///
/// # Errors
/// libvirt's; of [`Delete::Whole`] among them that the domain does not run, or that a bitmap is not there.
pub fn delete(domain: &Domain, name: &str, what: Delete) -> Result<(), LibvirtError> {
    const CALL: &str = "virDomainCheckpointDelete";
    let Some(handle) = look_up(domain, name)? else { return Ok(()) };
    let flags = if what == Delete::Metadata { sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY } else { 0 };
    // SAFETY: the handle is valid.
    let result = unsafe { sys::virDomainCheckpointDelete(handle.0, flags) };
    if result == 0 { Ok(()) } else { Err(LibvirtError::last(CALL)) }
}

fn look_up(domain: &Domain, name: &str) -> Result<Option<Handle>, LibvirtError> {
    const CALL: &str = "virDomainCheckpointLookupByName";
    let name = CString::new(name).map_err(|_| LibvirtError::argument(CALL))?;
    // SAFETY: the domain pointer is valid while `domain` is borrowed.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: `name` is a C string that outlives the call; the flags are none.
    let found = unsafe { sys::virDomainCheckpointLookupByName(pointer, name.as_ptr(), 0) };
    if !found.is_null() {
        return Ok(Some(Handle(found)));
    }
    let error = LibvirtError::last(CALL);
    if error.is_no_checkpoint() { Ok(None) } else { Err(error) }
}
