package inspect

import "time"

// eventually waits for what the kernel does some time later.
func eventually(holds func() bool) bool {
	for range 100 {
		if holds() {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}
