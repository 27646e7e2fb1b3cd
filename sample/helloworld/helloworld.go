// Package helloworld is the sample that says which version of it answered.
//
// GET /hello enters, one line of text leaves. The handler is stateless.
package helloworld

import (
	"fmt"
	"net/http"
)

// Port is where the sample listens.
const Port = 5000

// Handler serves GET /hello and /health. instance is the pod's host name.
func Handler(version, instance string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Hello version: %s, instance: %s\n", version, instance)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "Helloworld is healthy")
	})
	return mux
}
