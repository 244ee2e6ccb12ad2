// Command kstatus reads Kubernetes objects as JSON, one after another, and prints a line for each:
// what kstatus, the library of kpt and Flux, takes it for.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type judgement struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	objects, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		// It tells whole numbers from others, as kstatus needs them.
		object := &unstructured.Unstructured{}
		err := objects.Decode(object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatalf("this is no Kubernetes object: %v", err)
		}
		found, err := status.Compute(object)
		if err != nil {
			log.Fatalf("kstatus cannot judge this object: %v", err)
		}
		if err := answers.Encode(judgement{found.Status.String(), found.Message}); err != nil {
			log.Fatal(err)
		}
	}
}
