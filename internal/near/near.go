// Package near finds the word that was meant.
package near

import (
	"fmt"
	"strings"
)

// listed is how many words a hint lists at most.
const listed = 12

// Hint helps somebody who wrote word where one of words was wanted: with the
// one that was probably meant, else with all that there are, in the order
// given. It is "" when there are none.
func Hint(word string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	best, at := "", 1+len(word)/3 // a third of the letters may be wrong
	for _, w := range words {
		if strings.EqualFold(w, word) {
			return fmt.Sprintf("did you mean %q?", w)
		}
		// Longer words than any name are not worth the time.
		if len(w) > 256 || len(word) > 256 {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d < at || d == at && best == "" {
			best, at = w, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(words) == 1:
		return fmt.Sprintf("there is only %q", words[0])
	case len(words) <= listed:
		return "there are " + strings.Join(words, ", ")
	}
	return fmt.Sprintf("there are %s and %d more", strings.Join(words[:listed], ", "), len(words)-listed)
}

// distance counts the letters to insert, remove, replace or swap with their
// neighbour to make one word of the other.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
