package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var linkChangeVerbs = []verb{{
	name: "pin", args: "LINK FILE",
	short: "Pin a link in bpffs",
	run:   (*call).linkPin,
}, {
	name: "detach", args: "LINK",
	short: "Detach a link from what it is attached to",
	long: `Detach takes the program away from where the link holds it. The link stays, and
holds nothing, until nobody has it open and no pin is left. LINK is ` + linkSelection.usage() + `.`,
	run: (*call).linkDetach,
}}

// selectLink takes the words of a selector; the caller closes the link.
func (c *call) selectLink() (link.Link, error) {
	list, err := c.selectLinks()
	if err != nil {
		return nil, err
	}
	return list[0], nil // by id or pin there is one
}

func (c *call) linkPin() error {
	l, err := c.selectLink()
	if err != nil {
		return err
	}
	defer l.Close()
	path, err := c.next("file to pin the link at")
	if err != nil {
		return err
	}
	if err := c.end(); err != nil {
		return err
	}
	return c.pinned(path, l)
}

func (c *call) linkDetach() error {
	l, err := c.selectLink()
	if err != nil {
		return err
	}
	defer l.Close()
	if err := c.end(); err != nil {
		return err
	}
	err = l.Detach()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, link.ErrNotSupported):
		return &hinted{errors.New("detach link: links of this type cannot be detached"), "they go when nobody holds them any more: l3af link show -f tells who does, and where they are pinned"}
	case err != nil:
		return fmt.Errorf("detach link: %w", err)
	}
	return c.done()
}
