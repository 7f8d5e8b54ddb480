//! The channel of a guest's agent, as the XML of a running domain has it. Pure.

use roxmltree::{Document, Node};

/// Name of the agent's port.
const NAME: &str = "org.qemu.guest_agent.0";

/// Whether a program in the guest has the agent's port open; none where the domain has no such channel, or libvirt does not know.
#[must_use]
pub fn is_connected(xml_live: &str) -> Option<bool> {
    let document = Document::parse(xml_live).ok()?;
    let is_agent = |node: &Node<'_, '_>| node.has_tag_name("target") && node.attribute("name") == Some(NAME);
    let channels = document.descendants().filter(|node| node.has_tag_name("channel"));
    let target = channels.flat_map(|channel| channel.children()).find(is_agent)?;
    target.attribute("state").map(|state| state == "connected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_the_agents_port_is_told() {
        let of = |channel: &str| {
            is_connected(&format!(
                "<domain><devices><channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0' state='connected'/></channel>{channel}</devices></domain>"
            ))
        };
        let agent = |state: &str| {
            of(&format!("<channel type='unix'><source mode='bind' path='/x'/><target type='virtio' name='org.qemu.guest_agent.0'{state}/></channel>"))
        };
        assert_eq!((agent(" state='connected'"), agent(" state='disconnected'")), (Some(true), Some(false)));
        assert_eq!((agent(""), of(""), is_connected("no XML")), (None, None, None));
    }
}
