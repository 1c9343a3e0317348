package inspect

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

type symbol struct{ name, module string }

// endbr is the size of the instruction that a probed function may begin with
// on x86 with indirect branch tracking; the kernel tells the address behind it.
const endbr = 4

// kernelSymbols names functions of the kernel by their addresses. Those that
// /proc/kallsyms does not have, or hides, have no name.
func kernelSymbols(addrs []uint64) map[uint64]symbol {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil
	}
	defer f.Close()
	return findSymbols(f, addrs)
}

func findSymbols(r io.Reader, addrs []uint64) map[uint64]symbol {
	wanted := map[uint64]bool{}
	for _, a := range addrs {
		wanted[a] = a != 0
	}
	found := map[uint64]symbol{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		// ffffffff81000000 T name [module]
		f := strings.Fields(lines.Text())
		if len(f) < 3 {
			continue
		}
		at, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil || at == 0 {
			continue
		}
		s := symbol{name: f[2]}
		if len(f) > 3 {
			s.module = strings.Trim(f[3], "[]")
		}
		if _, ok := found[at+endbr]; wanted[at+endbr] && !ok {
			found[at+endbr] = s
		}
		if wanted[at] {
			found[at] = s
		}
	}
	return found
}
