package inspect

import (
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
)

// Program is what bpftool prog show has of a program, with its names and order,
// and what it has not at the end.
type Program struct {
	ID            uint32   `json:"id"`
	Type          TypeName `json:"type"`
	Name          string   `json:"name,omitempty"` // whole, not the kernel's 15 bytes
	Tag           string   `json:"tag"`
	GPLCompatible bool     `json:"gpl_compatible"`
	// Run time, of all CPUs, is there when statistics were on at some time.
	RunTimeNS       uint64   `json:"run_time_ns,omitempty"`
	RunCount        uint64   `json:"run_cnt,omitempty"`
	RecursionMisses uint64   `json:"recursion_misses,omitempty"`
	Dev             *Device  `json:"dev,omitempty"`       // it is bound or offloaded to
	LoadedAt        *int64   `json:"loaded_at,omitempty"` // seconds since 1970
	UID             *uint32  `json:"uid,omitempty"`       // of who loaded it
	Orphaned        bool     `json:"orphaned"`            // its device is gone
	BytesXlated     uint32   `json:"bytes_xlated"`
	JITed           bool     `json:"jited"`
	BytesJITed      uint32   `json:"bytes_jited,omitempty"`
	BytesMemlock    uint64   `json:"bytes_memlock,omitempty"`
	MapIDs          []uint32 `json:"map_ids,omitempty"`
	BTFID           uint32   `json:"btf_id,omitempty"`
	Pinned          []string `json:"pinned,omitzero"`    // nil: not looked for, or there are no pins at all
	Pids            []Holder `json:"pids,omitempty"`     // who has a descriptor of it
	Metadata        Metadata `json:"metadata,omitempty"` // what the program says of itself

	VerifiedInsns uint32 `json:"verified_insns,omitempty"` // instructions the verifier looked at
	Chain         *Chain `json:"chain,omitempty"`          // what of ours it is
}

// Device is a network device and the network namespace it is in.
type Device struct {
	Ifindex uint32 `json:"ifindex"`
	NSDev   uint64 `json:"ns_dev"`
	NSInode uint64 `json:"ns_inode"`
	Ifname  string `json:"ifname,omitempty"` // where that is the caller's namespace
}

// Programs reads the programs that a selector means, in the order of their ids.
// Errors are those of [OpenPrograms].
func Programs(s Selector, opts Options) ([]Program, error) {
	pins, err := opts.pins()
	if err != nil {
		return nil, err
	}
	wait := opts.Holders.start()
	list := make([]Program, 0, s.room())
	boot := bootTime()
	meta := newMetadataReader()
	err = programs(s, func(o *bpfsys.Open, info *bpfsys.ProgInfo, maps []uint32) error {
		p := newProgram(info, boot)
		p.Name = fullName(o, info)
		if opts.Holders == nil {
			p.BytesMemlock = memlock(o)
		}
		p.MapIDs = slices.Clone(maps)
		p.Metadata = meta.among(maps)
		p.Pinned = pins.of(bpfsys.Prog, p.ID)
		p.Chain = opts.Ours.program(&p)
		list = append(list, p)
		return nil
	})
	meta.release()
	if err := errors.Join(err, wait()); err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(p Program) bool { return opts.Holders.own(bpfsys.Prog, p.ID) })
	for i := range list {
		p := &list[i]
		p.Pids = opts.Holders.Of(bpfsys.Prog, p.ID)
		if p.BytesMemlock > 0 {
			continue
		}
		// Read from /proc this takes longer than all the rest.
		if p.BytesMemlock = opts.Holders.memlock(p.ID); p.BytesMemlock == 0 {
			if o, err := bpfsys.ByID(bpfsys.Prog, p.ID, 0); err == nil {
				p.BytesMemlock = memlock(o)
				o.Close()
			}
		}
	}
	return list, nil
}

// memlock is the memory that /proc says a program takes, in bytes.
func memlock(o *bpfsys.Open) uint64 {
	n, _ := strconv.ParseUint(fdinfo(o)["memlock"], 10, 64)
	return n
}

func newProgram(info *bpfsys.ProgInfo, boot time.Duration) Program {
	p := Program{
		ID: info.ID, Type: ProgramType(ebpf.ProgramType(info.Type)), Tag: hex.EncodeToString(info.Tag[:]),
		GPLCompatible: info.GPLCompatible(), RecursionMisses: info.RecursionMisses,
		Dev:         device(info.Ifindex, info.NetnsDev, info.NetnsIno),
		BytesXlated: info.XlatedLen, JITed: info.JitedLen > 0, BytesJITed: info.JitedLen, BTFID: info.BTFID,
		VerifiedInsns: info.VerifiedInsns,
	}
	if info.Type == 0 {
		// The kernel says ENODEV and nothing of the program.
		p.Orphaned = true
	}
	if info.RunTime > 0 {
		p.RunTimeNS, p.RunCount = info.RunTime, info.RunCount
	}
	if info.LoadTime > 0 {
		at, uid := int64((boot+time.Duration(info.LoadTime))/time.Second), info.CreatedByUID
		p.LoadedAt, p.UID = &at, &uid
	}
	return p
}

// device names a device where it is in the caller's network namespace.
func device(ifindex uint32, nsDev, nsInode uint64) *Device {
	if ifindex == 0 {
		return nil
	}
	d := &Device{Ifindex: ifindex, NSDev: nsDev, NSInode: nsInode}
	var own unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &own) == nil && own.Dev == nsDev && own.Ino == nsInode {
		d.Ifname = ifname(ifindex)
	}
	return d
}

// bootTime is when the machine started, as the time since 1970.
func bootTime() time.Duration {
	var now, up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &now) // it cannot fail
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return time.Duration(now.Nano() - up.Nano())
}

// fdinfo is what /proc says of an open object.
func fdinfo(o *bpfsys.Open) map[string]string {
	fd, err := unix.Open("/proc/self/fdinfo/"+strconv.Itoa(o.FD()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var text [4096]byte // the kernel gives what fits, in one go
	n, _ := unix.Read(fd, text[:])
	return parseFdinfo(string(text[:max(n, 0)]))
}

func parseFdinfo(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, v, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(v)
		}
	}
	return fields
}
