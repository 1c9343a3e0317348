package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// CgroupProgram is a program of a cgroup, in bpftool's words.
type CgroupProgram struct {
	ID         uint32   `json:"id"`
	AttachType TypeName `json:"attach_type"`
	// AttachFlags are of the program alone: "multi", "override" or "" (nil where
	// inherited programs are asked for, which have none).
	AttachFlags    *string `json:"attach_flags,omitempty"`
	Name           string  `json:"name"`
	AttachBTFName  string  `json:"attach_btf_name"` // LSM: the hook
	AttachBTFObjID uint32  `json:"attach_btf_obj_id"`
	AttachBTFID    uint32  `json:"attach_btf_id"`
}

// Cgroup is a cgroup that has programs.
type Cgroup struct {
	Path     string          `json:"cgroup"`
	Programs []CgroupProgram `json:"programs"`
}

// cgroupTypes are the attach types of cgroups, in the order of enum bpf_attach_type.
var cgroupTypes = []ebpf.AttachType{
	ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetSockCreate, ebpf.AttachCGroupSockOps,
	ebpf.AttachCGroupDevice, ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4Connect,
	ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind, ebpf.AttachCGroupUDP4Sendmsg,
	ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupSysctl, ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname, ebpf.AttachCgroupInetSockRelease, ebpf.AttachLSMCgroup,
	ebpf.AttachCgroupUnixConnect, ebpf.AttachCgroupUnixSendmsg, ebpf.AttachCgroupUnixRecvmsg, ebpf.AttachCgroupUnixGetpeername,
	ebpf.AttachCgroupUnixGetsockname,
}

// CgroupAttachTypes lists the attach types of cgroups.
func CgroupAttachTypes() []ebpf.AttachType { return slices.Clone(cgroupTypes) }

// CgroupPrograms lists the programs of a cgroup; with effective, all that run
// for it, inherited ones included.
func CgroupPrograms(dir string, effective bool) ([]CgroupProgram, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &fs); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("%s is no cgroup of version 2", dir)
	}
	flags := uint32(0)
	if effective {
		flags = bpfsys.QueryEffective
	}
	programs := []CgroupProgram{}
	for _, t := range cgroupTypes {
		at, err := bpfsys.Query(int(d.Fd()), uint32(t), flags)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // not in this kernel
		} else if err != nil {
			return nil, fmt.Errorf("query %s of %s: %w", AttachType(t), dir, err)
		}
		for _, a := range at.Programs {
			p := CgroupProgram{ID: a.Program, AttachType: AttachType(t)}
			if !effective {
				own := at.Flags
				if a.Flags != 0 {
					own = a.Flags
				}
				p.AttachFlags = attachFlags(own)
			}
			gone, err := p.describe()
			if err != nil {
				return nil, err
			}
			if !gone {
				programs = append(programs, p)
			}
		}
	}
	return programs, nil
}

// describe adds what the program itself tells. One that is gone is no error.
func (p *CgroupProgram) describe() (gone bool, err error) {
	err = programs(Selector{By: ID, ID: p.ID}, func(o *bpfsys.Open, info *bpfsys.ProgInfo, _ []uint32) error {
		p.AttachBTFObjID, p.AttachBTFID = info.AttachBTFObjID, info.AttachBTFID
		p.Name = fullName(o, info)
		if info.AttachBTFID != 0 {
			p.AttachBTFName = btfName(info.AttachBTFObjID, info.AttachBTFID)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

func attachFlags(flags uint32) *string {
	name := ""
	switch flags {
	case 0:
	case unix.BPF_F_ALLOW_MULTI:
		name = "multi"
	case unix.BPF_F_ALLOW_OVERRIDE:
		name = "override"
	default:
		name = fmt.Sprintf("unknown(%x)", flags)
	}
	return &name
}

// Cgroups lists the cgroups at and below root that have programs.
func Cgroups(root string, effective bool) ([]Cgroup, error) {
	list := []Cgroup{}
	err := filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && dir != root {
			return nil // removed while we look
		} else if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		programs, err := CgroupPrograms(dir, effective)
		if err == nil && len(programs) > 0 {
			list = append(list, Cgroup{dir, programs})
		}
		if errors.Is(err, fs.ErrNotExist) && dir != root || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
	return list, err
}

// CgroupRoot is where cgroups of version 2 are mounted.
func CgroupRoot() (string, error) {
	dirs, err := Mounts("cgroup2")
	if err == nil && len(dirs) == 0 {
		err = errors.New("no cgroup2 is mounted")
	}
	if err != nil {
		return "", err
	}
	return dirs[0], nil
}

// AttachCgroup attaches a program to a cgroup. It stays until it is detached or
// the cgroup goes.
func AttachCgroup(dir string, t ebpf.AttachType, p *ebpf.Program, flags uint32) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(d.Fd()), Program: p, Attach: t, Flags: flags})
}

// DetachCgroup detaches a program that was attached without a link.
func DetachCgroup(dir string, t ebpf.AttachType, p *ebpf.Program) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(d.Fd()), Program: p, Attach: t})
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("it is not attached there, or by a link (l3af link show tells it, l3af link detach takes it away): %w", err)
	}
	return err
}
