package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/inspect"
)

func cgroupObject() object {
	return object{
		name:  "cgroup",
		short: "Show and change the programs of cgroups",
		long: `Cgroup shows which programs cgroups of version 2 have, and attaches and detaches
programs. Attach types are written as cgroup_inet_egress, or egress.`,
		verbs: []verb{
			{
				name: "show", aliases: []string{"list"}, args: "CGROUP [effective]", run: cgroupShow,
				short:   "Show the programs of a cgroup",
				long:    "Show lists the programs of a cgroup; with effective, inherited ones too.",
				example: "  l3af cgroup show /sys/fs/cgroup/system.slice\n  l3af cgroup show /sys/fs/cgroup/system.slice effective -j",
			}, {
				name: "tree", args: "[CGROUP_ROOT] [effective]", run: cgroupTree,
				short:   "Show every cgroup that has programs",
				example: "  l3af cgroup tree",
			}, {
				name: "attach", args: "CGROUP ATTACH_TYPE PROG [multi|override]", run: cgroupAttach,
				short:   "Attach a program to a cgroup",
				long:    "Attach attaches a program, which is id N, pinned FILE, tag TAG or name NAME, to a\ncgroup. It stays until it is detached or the cgroup goes.",
				example: "  l3af cgroup attach /sys/fs/cgroup/web egress pinned /sys/fs/bpf/meter multi",
			}, {
				name: "detach", args: "CGROUP ATTACH_TYPE PROG", run: cgroupDetach,
				short:   "Detach a program from a cgroup",
				example: "  l3af cgroup detach /sys/fs/cgroup/web egress pinned /sys/fs/bpf/meter",
			},
		},
	}
}

func cgroupShow(c *call) error {
	dir, err := c.next("cgroup (the path of its directory)")
	if err != nil {
		return err
	}
	effective := c.take("effective")
	if err := c.end(); err != nil {
		return err
	}
	list, err := inspect.CgroupPrograms(dir, effective)
	if err != nil {
		return fmt.Errorf("show cgroup: %w", err)
	}
	return answerList(c, list, false, func(w io.Writer) error {
		if len(list) == 0 {
			return nil
		}
		cgroupHead(w, effective)
		return cgroupRows(w, "", list, effective)
	})
}

func cgroupTree(c *call) error {
	root, effective := "", false
	if c.peek() != "" && c.peek() != "effective" {
		root, _ = c.next("")
	}
	effective = c.take("effective")
	if err := c.end(); err != nil {
		return err
	}
	if root == "" {
		var err error
		if root, err = inspect.CgroupRoot(); err != nil {
			return &hinted{fmt.Errorf("show cgroups: %w", err), "mount -t cgroup2 none DIR, or name a cgroup"}
		}
	}
	list, err := inspect.Cgroups(root, effective)
	if err != nil {
		return fmt.Errorf("show cgroups: %w", err)
	}
	return answerList(c, list, false, func(w io.Writer) error {
		fmt.Fprintln(w, "CgroupPath")
		cgroupHead(w, effective)
		for _, g := range list {
			indent := "    "
			if filepath.Clean(g.Path) == filepath.Clean(root) {
				indent = ""
			}
			fmt.Fprintln(w, g.Path)
			if err := cgroupRows(w, indent, g.Programs, effective); err != nil {
				return err
			}
		}
		return nil
	})
}

func cgroupHead(w io.Writer, effective bool) {
	flags := fmt.Sprintf("%-15s ", "AttachFlags")
	if effective {
		flags = ""
	}
	fmt.Fprintf(w, "%-8s %-15s %s%-15s\n", "ID", "AttachType", flags, "Name")
}

func cgroupRows(w io.Writer, indent string, list []inspect.CgroupProgram, effective bool) error {
	for _, p := range list {
		flags := ""
		if p.AttachFlags != nil {
			flags = fmt.Sprintf("%-15s ", *p.AttachFlags)
		}
		if _, err := fmt.Fprintf(w, "%s%-8d %-15s %s%-15s %-15s\n", indent, p.ID, p.AttachType, flags, p.Name, p.AttachBTFName); err != nil {
			return err
		}
	}
	return nil
}

// cgroupPlace reads CGROUP ATTACH_TYPE PROG.
func (c *call) cgroupPlace() (dir string, t ebpf.AttachType, p *ebpf.Program, err error) {
	if dir, err = c.next("cgroup (the path of its directory)"); err != nil {
		return
	}
	word, err := c.next("attach type")
	if err != nil {
		return
	}
	t, ok := inspect.ParseAttachType(word)
	if known := inspect.CgroupAttachTypes(); !ok || !slices.Contains(known, t) {
		names := make([]string, len(known))
		for i, k := range known {
			names[i] = string(inspect.AttachType(k))
		}
		err = &usageError{fmt.Sprintf("unknown attach type %q", word), "cgroups have " + strings.Join(names, ", ")}
		return
	}
	p, err = c.selectProgram()
	return
}

func cgroupAttach(c *call) error {
	dir, t, p, err := c.cgroupPlace()
	if err != nil {
		return err
	}
	defer p.Close()
	flags := uint32(0)
	for c.peek() != "" {
		switch {
		case c.take("multi"):
			flags |= unix.BPF_F_ALLOW_MULTI
		case c.take("override"):
			flags |= unix.BPF_F_ALLOW_OVERRIDE
		default:
			return &usageError{fmt.Sprintf("unknown attach flag %q", c.peek()), "there is multi and override"}
		}
	}
	if err := inspect.AttachCgroup(dir, t, p, flags); err != nil {
		err = fmt.Errorf("attach to cgroup %s: %w", dir, err)
		if errors.Is(err, unix.EPERM) && flags == 0 {
			return &hinted{err, "a program that was attached without multi stands alone: give multi to all of a cgroup"}
		}
		return unfit(err, p)
	}
	return c.done()
}

func cgroupDetach(c *call) error {
	dir, t, p, err := c.cgroupPlace()
	if err != nil {
		return err
	}
	defer p.Close()
	if err := c.end(); err != nil {
		return err
	}
	if err := inspect.DetachCgroup(dir, t, p); err != nil {
		return fmt.Errorf("detach from cgroup %s: %w", dir, err)
	}
	return c.done()
}
