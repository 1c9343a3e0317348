package inspect

import "net"

// ifname is the name of an interface of the caller's network namespace, ""
// where there is none.
func ifname(index uint32) string {
	i, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return ""
	}
	return i.Name
}
