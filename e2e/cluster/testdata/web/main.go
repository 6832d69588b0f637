// Command web is what the tests of the cluster run in pods: a server, and a client to run in the server's container.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 2 && os.Args[1] == "get":
		err = get(os.Args[2])
	case len(os.Args) > 2 && os.Args[1] == "keep":
		err = keep(os.Args[2])
	default:
		err = serve()
	}
	if err != nil {
		log.Fatal(err)
	}
}

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// get prints what is at a URL; of the API server, it asks as the pod's ServiceAccount.
func get(url string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: time.Minute}
	if strings.HasPrefix(url, "https://kubernetes.default.svc/") {
		authority, err := os.ReadFile(account + "ca.crt")
		if err != nil {
			return err
		}
		token, err := os.ReadFile(account + "token")
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// keep adds a line to a file and serves what the file has.
func keep(file string) error {
	before, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(file, append(before, "started\n"...), 0o600); err != nil {
		return err
	}
	http.HandleFunc("/kept", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	return serve()
}

// serve answers on port 8080, and on 8443 as an extension server of the API does.
func serve() error {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s", os.Getenv("NODE")) })
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	http.HandleFunc("/apis/things.example.com/v1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"things.example.com/v1","resources":[]}`)
	})
	http.HandleFunc("/apis/things.example.com/v1/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello ", r.Header.Get("X-Remote-User"))
	})
	unstarted := httptest.NewUnstartedServer(nil) // for its certificate
	unstarted.StartTLS()
	secure := http.Server{Addr: ":8443", TLSConfig: &tls.Config{Certificates: unstarted.TLS.Certificates}, ReadHeaderTimeout: time.Minute}
	go func() { log.Fatal(secure.ListenAndServeTLS("", "")) }()
	plain := http.Server{Addr: ":8080", ReadHeaderTimeout: time.Minute}
	log.Print("serving as user ", os.Getuid())
	return plain.ListenAndServe()
}
