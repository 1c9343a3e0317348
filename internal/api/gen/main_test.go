package main

import (
	"bytes"
	"os"
	"testing"
)

// The checked-in description is that of the routes and types of today.
func TestFresh(t *testing.T) {
	want, err := describe()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi.json is stale: run go generate ./internal/api")
	}
}
