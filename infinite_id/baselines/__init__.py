"""The methods that Infinite-ID is compared with, behind the same Generator protocol."""
