// Package kconfig answers what programs ask about the kernel that runs them:
// extern variables declared with __kconfig.
package kconfig

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Section is the name of the data section that holds the variables.
const Section = ".kconfig"

const maxSize = 1 << 16

// Resolve gives the contents of a .kconfig section on the running kernel: the
// options CONFIG_* from /boot/config-RELEASE or /proc/config.gz, which need not
// be there if the section has none, LINUX_KERNEL_VERSION and
// LINUX_HAS_SYSCALL_WRAPPER. An option that is off or unknown to the kernel is
// an error, but for booleans and tristates, where it is n.
func Resolve(section *btf.Datasec) ([]byte, error) {
	if section.Size > maxSize {
		return nil, fmt.Errorf("the section .kconfig is damaged: it has %d bytes", section.Size)
	}
	data := make([]byte, section.Size)
	options := map[string]string(nil)
	for _, info := range section.Vars {
		v, ok := info.Type.(*btf.Var)
		if !ok || uint64(info.Offset)+uint64(info.Size) > uint64(len(data)) {
			return nil, errors.New("the section .kconfig is damaged")
		}
		at, t := data[info.Offset:][:info.Size], btf.UnderlyingType(v.Type)
		if size, err := btf.Sizeof(t); err != nil || size != int(info.Size) {
			return nil, fmt.Errorf("%s: the section .kconfig is damaged", v.Name)
		}
		var err error
		switch {
		case v.Name == "LINUX_KERNEL_VERSION":
			var version uint32
			if version, err = features.LinuxVersionCode(); err == nil {
				err = put(at, t, strconv.FormatUint(uint64(version), 10))
			}
		case v.Name == "LINUX_HAS_SYSCALL_WRAPPER":
			// Every architecture that Go and BPF share has had them since 4.19,
			// but for those of 32 bits.
			err = put(at, t, strconv.Itoa(strconv.IntSize/64))
		case strings.HasPrefix(v.Name, "CONFIG_"):
			if options == nil {
				if options, err = Options(); err != nil {
					return nil, err
				}
			}
			value, ok := options[v.Name]
			if !ok {
				if !threeValued(t) {
					return nil, fmt.Errorf("this kernel has no option %s", v.Name)
				}
				value = "n"
			}
			err = put(at, t, value)
		default:
			err = errors.New("nobody knows this variable of the kernel")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	return data, nil
}

// Options reads the configuration of the running kernel, from /boot/config-RELEASE
// or /proc/config.gz: options by name, values as they stand there. Options that
// are off are not in it.
func Options() (map[string]string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	f, err := os.Open("/boot/config-" + unix.ByteSliceToString(name.Release[:]))
	if errors.Is(err, os.ErrNotExist) {
		packed, err := os.Open("/proc/config.gz")
		if err != nil {
			return nil, fmt.Errorf("the configuration of this kernel is neither in /boot nor in /proc: %w", err)
		}
		defer packed.Close()
		text, err := gzip.NewReader(packed)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", packed.Name(), err)
		}
		return parse(text)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// parse reads lines such as CONFIG_HZ=250. Others say nothing.
func parse(text io.Reader) (map[string]string, error) {
	options := map[string]string{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		name, value, ok := bytes.Cut(lines.Bytes(), []byte("="))
		if ok && bytes.HasPrefix(name, []byte("CONFIG_")) {
			options[string(name)] = string(value)
		}
	}
	return options, lines.Err()
}

// threeValued says whether a type holds y, n, and perhaps m.
func threeValued(t btf.Type) bool {
	switch t := t.(type) {
	case *btf.Int:
		return t.Encoding == btf.Bool
	case *btf.Enum:
		return t.Name == "libbpf_tristate"
	}
	return false
}

// put writes an option's value as libbpf does: set_kcfg_value_tri, _str and
// _num in its libbpf.c.
func put(at []byte, t btf.Type, value string) error {
	switch tri := strings.Index("nym", value); {
	case len(value) == 1 && tri >= 0:
		switch t := t.(type) {
		case *btf.Int:
			switch {
			case t.Encoding == btf.Bool && t.Size == 1 && value != "m":
				at[0] = byte(tri)
				return nil
			case t.Encoding != btf.Bool && t.Size == 1:
				at[0] = value[0]
				return nil
			}
		case *btf.Enum:
			if t.Name == "libbpf_tristate" && len(at) == 4 {
				binary.NativeEndian.PutUint32(at, uint32(tri))
				return nil
			}
		}
	case strings.HasPrefix(value, `"`):
		text, err := strconv.Unquote(value)
		if err != nil {
			text = strings.Trim(value, `"`)
		}
		if a, ok := t.(*btf.Array); ok && len(at) > 0 {
			if c, ok := btf.UnderlyingType(a.Type).(*btf.Int); ok && c.Size == 1 && c.Encoding != btf.Bool {
				copy(at[:len(at)-1], text)
				return nil
			}
		}
	default:
		if i, ok := t.(*btf.Int); ok && len(at) <= 8 {
			return number(at, i, value)
		}
	}
	return fmt.Errorf("the value %s does not fit the type %v", value, t)
}

func number(at []byte, t *btf.Int, value string) error {
	bits := len(at) * 8
	n, err := strconv.ParseUint(value, 0, 64)
	switch {
	case err != nil || t.Encoding == btf.Signed && n > math.MaxInt64:
		var signed int64
		if signed, err = strconv.ParseInt(value, 0, bits); err != nil || t.Encoding != btf.Signed {
			return fmt.Errorf("the value %s does not fit %d bits", value, bits)
		}
		n = uint64(signed)
	case t.Encoding == btf.Signed && n>>(bits-1) > 0, t.Encoding != btf.Signed && bits < 64 && n>>bits > 0, t.Encoding == btf.Bool && n > 1:
		return fmt.Errorf("the value %s does not fit %d bits", value, bits)
	}
	switch len(at) {
	case 1:
		at[0] = byte(n)
	case 2:
		binary.NativeEndian.PutUint16(at, uint16(n))
	case 4:
		binary.NativeEndian.PutUint32(at, uint32(n))
	case 8:
		binary.NativeEndian.PutUint64(at, n)
	default:
		return fmt.Errorf("a number of %d bytes", len(at))
	}
	return nil
}
